"""How often one may ask: the limits that Linode publishes, per minute or quarter of one."""

import math
from dataclasses import dataclass

from infra.clock import Clock
from infra.simulator.answers import Refusal


@dataclass(frozen=True)
class Limit:
    """So many requests in so many seconds."""

    name: str
    requests: int
    seconds: int


_CREATE_INSTANCE = Limit("create Linode", 20, 15)
_CREATE_VOLUME = Limit("create Volume", 100, 60)
_SCRIPTS = Limit("list StackScripts", 60, 60)
_IMAGES = Limit("list images", 20, 60)
_STORAGE = Limit("change object storage", 60, 60)
_COLLECTION = Limit("collections", 200, 60)
_OTHERS = Limit("others", 1600, 60)


def limit(method: str, path: str, collection: bool) -> Limit:
    """Which limit a request counts against."""
    if method == "GET":
        lists = {"/linode/stackscripts": _SCRIPTS, "/images": _IMAGES}
        return lists.get(path, _COLLECTION if collection else _OTHERS)
    if path.startswith(("/object-storage/keys", "/object-storage/buckets")):
        return _STORAGE
    creates = {"/linode/instances": _CREATE_INSTANCE, "/volumes": _CREATE_VOLUME}
    return creates.get(path, _OTHERS) if method == "POST" else _OTHERS


class RateLimits:
    """Counts requests in windows of the clock; refuses only where `enforced`."""

    def __init__(self, clock: Clock, enforced: bool) -> None:
        self._clock = clock
        self._enforced = enforced
        self._windows: dict[tuple[Limit, str], tuple[float, int]] = {}

    def count(self, kind: Limit, token: str) -> dict[str, str]:
        """Count one request; its headers. Raises a 429 Refusal."""
        now = self._clock.now().timestamp()
        began, used = self._windows.get((kind, token), (now, 0))
        if now >= began + kind.seconds:
            began, used = now, 0
        self._windows[kind, token] = began, used + 1
        reset = math.ceil(began + kind.seconds)
        headers = {
            "X-RateLimit-Limit": str(kind.requests),
            "X-RateLimit-Remaining": str(max(0, kind.requests - used - 1)),
            "X-RateLimit-Reset": str(reset),
        }
        if self._enforced and used >= kind.requests:
            headers["Retry-After"] = str(max(1, math.ceil(reset - now)))
            raise Refusal("Too many requests", status=429, headers=headers)
        return headers
