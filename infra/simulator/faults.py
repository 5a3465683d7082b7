"""What goes wrong on request: a fault says where, how often and in which way."""

import threading
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from fnmatch import fnmatchcase

from infra.simulator.answers import JSON, Refusal


class Effect(StrEnum):
    """The ways in which things go wrong."""

    # answers to a request
    NO_CAPACITY = "no_capacity"  # a machine of this `plan` and `region` cannot be had
    ACTED_502 = "acted_502"  # does what was asked, and answers 502
    ACTED_SILENT = "acted_silent"  # does what was asked, and never answers
    SILENT = "silent"  # does nothing, and never answers
    RATE_LIMITED = "rate_limited"  # 429 with Retry-After: `seconds`
    SERVER_ERROR = "server_error"  # `status`, 500 where none is given
    EXPIRED_TOKEN = "expired_token"
    MISSING_SCOPE = "missing_scope"  # the token lacks `scope`
    RESTRICTED_USER = "restricted_user"  # who may not tag
    PRICE_ZERO = "price_zero"  # of this `plan`
    PRICE_NONE = "price_none"
    STALE_LISTING = "stale_listing"  # a list leaves out what has this `label`
    # what becomes of a thing with this `label`
    VANISH = "vanish"  # gone when anybody looks next, and nobody deleted it
    BOOT_NEVER_ENDS = "boot_never_ends"
    DELETE_LINGERS = "delete_lingers"  # for `seconds`
    DELETE_FAILS = "delete_fails"  # the request is accepted, the thing stays
    SSHD_FREEZES = "sshd_freezes"  # `seconds` after the boot: it neither answers nor closes
    WRONG_HOST_KEY = "wrong_host_key"


@dataclass(kw_only=True)
class Fault:
    """One thing that goes wrong, wherever all its patterns fit (`*` and `?` as in file names)."""

    effect: Effect
    method: str = "*"
    path: str = "*"  # without the version: /linode/instances, /volumes/*
    label: str = "*"
    plan: str = "*"
    region: str = "*"
    scope: str = "*"
    times: int | None = None  # how often; always, where none is given
    skip: int = 0  # how many occasions pass first without harm
    seconds: float = 5.0
    status: int = 500

    def fits(self, **known: str) -> bool:
        return all(fnmatchcase(value, getattr(self, name)) for name, value in known.items())


class Faults:
    """All that will go wrong; nothing, at first."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, effect: Effect | str, **limits: object) -> Fault:
        """Let something go wrong from now on; `limits` are the fields of a Fault.

        Raises ValueError or TypeError for what there is not.
        """
        known = {entry.name: entry.type for entry in fields(Fault)}
        for name, value in limits.items():
            if name not in known:
                raise TypeError(f"a fault has no {name!r}; there are {', '.join(known)}")
            wanted: type | tuple[type, ...] = str
            if name in ("times", "skip", "status", "seconds"):
                wanted = (int, float)
            if not isinstance(value, wanted) and not (name == "times" and value is None):
                raise TypeError(f"a fault's {name!r} cannot be {value!r}")
        fault = Fault(effect=Effect(effect), **limits)  # type: ignore[arg-type]
        with self._lock:
            self._faults.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """From now on this goes well again."""
        with self._lock:
            self._faults = [other for other in self._faults if other is not fault]

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._faults.clear()

    def standing(self) -> list[JSON]:
        """What goes wrong now."""
        return [asdict(fault) for fault in self._faults]

    def strike(self, effect: Effect, **known: str) -> Fault | None:
        """The fault that happens on this occasion, which counts against its number of times."""
        with self._lock:
            for fault in self._faults:
                if fault.effect is not effect or fault.times == 0 or not fault.fits(**known):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def refuse(self, method: str, path: str) -> None:
        """Raise the Refusal that a request meets before it has done anything."""
        if fault := self.strike(Effect.RATE_LIMITED, method=method, path=path):
            headers = {"Retry-After": f"{fault.seconds:g}"}
            raise Refusal("Too many requests", status=429, headers=headers)
        if fault := self.strike(Effect.SERVER_ERROR, method=method, path=path):
            raise Refusal("Internal Server Error", status=fault.status)
