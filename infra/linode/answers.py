"""What an answer of Linode's API means: whether to ask again, and which failure it is.

Texts of Linode are matched by a part of them and by status: few are documented, and they change.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from linode_api4 import ApiError
from requests import exceptions
from urllib3.exceptions import NewConnectionError

from infra.failure import Failure
from infra.linode.token import HOW
from infra.provider import NoCapacity, Refused, Unauthorised, Unclear

_CAPACITY = re.compile(
    r"no availability|capacity|out of stock|sold out|insufficient (resources|stock)"
    r"|not (currently )?available in|no (free|available) host",
    re.IGNORECASE,
)
_BUSY = re.compile(r"busy|already attached|must be detached|still attached|cloning", re.IGNORECASE)
_TAKEN = re.compile(r"label.*unique|unique.*label", re.IGNORECASE)

# What helps, by a part of Linode's reason; the first that fits.
_CURES = (
    ("account limit", "Ask Linode's support to raise the limit, or delete what is not needed."),
    ("lock", "Remove the lock in Cloud Manager first."),
    ("region", "Choose another region."),
    ("type", "Choose another plan."),
    ("plan", "Choose another plan."),
    ("interface", "See Account Settings, Network Interface Type, in Cloud Manager."),
)


@dataclass(frozen=True)
class Answer:
    """What came back. Nothing of the request is in it, so that it may be shown."""

    status: int = 0  # 0: none came
    body: Any = None  # of a success
    reasons: tuple[str, ...] = ()  # Linode's own words; empty where a gateway spoke for it
    trouble: str = ""  # what happened where there is neither
    retry_after: float | None = None  # seconds
    maintenance: bool = False
    unsent: bool = False  # the request certainly never left
    untrusted: bool = False  # whoever answered could not prove to be Linode
    scopes: str = ""  # that Linode would accept

    @classmethod
    def refusal(cls, error: ApiError) -> Self:
        """An answer with a status of 400 and more."""
        headers = {} if error.response is None else error.response.headers
        after = headers.get("Retry-After", "")
        return cls(
            status=error.status,
            reasons=tuple(_reasons(error.json)),
            retry_after=float(after) if re.fullmatch(r"[0-9]{1,9}", after) else None,
            maintenance="X-Maintenance-Mode" in headers,
            scopes=headers.get("X-Accepted-OAuth-Scopes", ""),
        )

    @classmethod
    def lost(cls, error: exceptions.RequestException) -> Self:
        """No answer, or one that could not be read."""
        if isinstance(error, exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            return cls(trouble="its certificate could not be verified", unsent=True, untrusted=True)
        cause = getattr(error.args[0] if error.args else None, "reason", None)
        if isinstance(error, exceptions.ConnectTimeout) or isinstance(cause, NewConnectionError):
            return cls(trouble="it cannot be reached", unsent=True)
        if isinstance(error, exceptions.Timeout):
            return cls(trouble="it did not answer in time")
        if isinstance(error, exceptions.TooManyRedirects):
            return cls(trouble="it answered with the address of another server")
        if isinstance(error, exceptions.JSONDecodeError):
            return cls(trouble="its answer was not JSON")
        return cls(trouble="the connection broke")

    @property
    def ok(self) -> bool:
        """Linode did what was asked for."""
        return self.status == 200

    @property
    def absent(self) -> bool:
        """Linode itself says that there is no such thing; a gateway's 404 says nothing."""
        return self.status == 404 and bool(self.reasons)

    @property
    def busy(self) -> bool:
        """Another job has to end before."""
        return self.status == 400 and any(_BUSY.search(reason) for reason in self.reasons)

    @property
    def nothing_done(self) -> bool:
        """It was certainly not acted on, and may be another time: even a create may be repeated."""
        return self.status == 429 or (self.unsent and not self.untrusted)

    @property
    def transient(self) -> bool:
        """May pass; for what can be repeated without harm."""
        # nginx answers 400 in HTML when it could not hand the request on.
        gateway = self.status in (0, 400) and not self.reasons
        passing = gateway or self.status in (408, 429, 500, 502, 503, 504)
        return passing and not self.maintenance and not self.untrusted

    def failure(self, what: str, *, wants_room: bool) -> Failure:
        """Why Linode did not do `what`, as in "create the volume x".

        Only what `wants_room` can fail for want of it: a deletion that such words came with is to
        be asked for again.
        """
        reason = "; ".join(self.reasons)
        said = f"Linode did not {what}: {reason.rstrip('.')}."
        no_room = wants_room and _CAPACITY.search(reason) is not None
        if self.untrusted:
            return Refused(
                f"Linode's certificate could not be verified, so it was not asked to {what}: "
                "let LINODE_CA name the file with the right authority, or check LINODE_URL."
            )
        if not reason or self.status not in range(400, 500) or self.status in (408, 429):
            no_room = no_room and self.status == 503
            return NoCapacity(said) if no_room else self._unclear(what)
        if no_room and self.status != 401:
            return NoCapacity(said)
        if self.status in (401, 403):
            return self._unauthorised(said)
        if self.busy:
            return Unclear(f"{said} Ask again once that has ended.")
        if self.status == 400 and _TAKEN.search(reason):
            return Unclear(f"{said} Look whether the one that has it is yours.")
        cures = (cure for part, cure in _CURES if part in reason.lower())
        return Refused(" ".join([said, *list(cures)[:1]]))

    def _unclear(self, what: str) -> Unclear:
        if self.maintenance:
            trouble = "it is under maintenance"
        elif self.status == 429:
            wait = f" for {self.retry_after:.0f} s" if self.retry_after else ""
            trouble = f"it takes no more requests{wait}"
        else:
            trouble = self.trouble or "; ".join(self.reasons) or "a gateway answered for it"
        status = f" ({self.status})" if self.status else ""
        return Unclear(f"Linode was asked to {what}, but {trouble}{status}: try again later.")

    def _unauthorised(self, said: str) -> Unauthorised:
        if "invalid token" in said.lower() or "expired" in said.lower():
            return Unauthorised(f"{said} It is wrong or has expired: {HOW}.")
        needs = f" with the scope {self.scopes}" if self.scopes not in ("", "*") else ""
        return Unauthorised(f"{said} The token may not do this: {HOW}{needs}.")


def _reasons(body: Any) -> Iterable[str]:
    errors = body.get("errors") if isinstance(body, dict) else None
    for error in errors if isinstance(errors, list) else []:
        if isinstance(error, dict) and error.get("reason"):
            field = f"{error['field']}: " if error.get("field") else ""
            yield f"{field}{error['reason']}"[:300]
