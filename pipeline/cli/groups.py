"""Options in groups: what several commands take is written once, and arrives as one object.

A group is a frozen dataclass whose fields are typer's options. A command that is decorated with
`grouped` names it as a parameter, in whose place typer sees the group's options.
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer must see it: every group's options in the place of the group."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    options: dict[str, Parameter] = {}
    for name, parameter in signature(command).parameters.items():
        if kind := groups.get(name):
            options |= _options(kind)
        else:
            options[name] = parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name])

    def typed(**values: Any) -> None:
        made = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        command(**made, **values)

    typed.__name__, typed.__doc__ = command.__name__, command.__doc__
    typed.__signature__ = Signature([*options.values()])  # type: ignore[attr-defined]
    typed.__annotations__ = {name: option.annotation for name, option in options.items()}
    return typed


def _options(group: Any) -> dict[str, Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = Parameter.KEYWORD_ONLY
    return {
        field.name: Parameter(
            field.name, kind, default=_default(field), annotation=hints[field.name]
        )
        for field in fields(group)
    }


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
