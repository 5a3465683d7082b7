"""A page of HTML that opens anywhere, offline: nothing in it is fetched and nothing in it runs.

Its own content security policy forbids it, in `page.html`, which all pages begin with. What is
filled in is text, never markup.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jinja2


def page(template: str, filters: Mapping[str, Callable[..., str]] = {}, **values: Any) -> str:
    """The page that a template of this folder, such as `report.html`, makes of the values."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(template).render(**values)
