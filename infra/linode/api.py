"""Requests to Linode's API: with a time limit each, repeated only where that is harmless.

linode_api4 does the talking, with its own retries off: they would repeat a create that had been
heard. Its objects are not used either, for reading an attribute of theirs may be a request.
"""

import ipaddress
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from linode_api4 import ApiError, LinodeClient
from requests.adapters import HTTPAdapter

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.linode.answers import Answer
from infra.provider import Unclear

_LOG = logging.getLogger(__name__)
Body = Mapping[str, Any]

_PATIENCE = 120.0  # seconds of the clock: no wait begins after it, and none is longer
_LONGEST_PAUSE = 30.0  # seconds, where Linode does not say how long
_PAGE = 500  # what the API allows
_LISTINGS = 3  # a list that changes while it is read is read again


@dataclass(frozen=True)
class Timeouts:
    """Real seconds until a request is given up: no connection, then no byte of an answer."""

    connect: float = 10
    read: float = 60


class Api:
    """Linode's API, one method for each way in which a request may be repeated.

    All of them raise Unauthorised, Refused, NoCapacity and Unclear as `Provider` has them; `what`
    completes the sentence "Linode did not ...".
    """

    def __init__(
        self,
        token: str,
        url: str,
        ca: str | None,
        clock: Clock,
        timeouts: Timeouts,
    ) -> None:
        _check_address(url, ca)
        self._clock = clock
        self._secret = token
        self._client = LinodeClient(
            token, base_url=url.rstrip("/"), user_agent="voc-train", retry=False, ca_path=ca
        )
        session: requests.Session = self._client.session
        adapter = _TimeLimit(timeouts)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        # A connection that died while idle would make the next create unclear for nothing.
        session.headers["Connection"] = "close"
        session.max_redirects = 0  # the token is for this server only
        session.trust_env = not is_here(url)  # a proxy cannot reach this computer's own servers
        session.auth = _as_it_is  # else a .netrc would replace the token
        session.hooks["response"].append(self._remember_scopes)
        self.scopes: str | None = None  # of the token, as an answer of any kind has them

    def get(self, path: str, what: str) -> Any:
        """One thing; None where Linode says that there is none."""
        answer = self._ask("get", path, _is_transient)
        return None if answer.absent else _expect(answer, what)

    def list_all(self, path: str, what: str, filters: Body | None = None) -> list[dict[str, Any]]:
        """All items of all pages. Raises Unclear rather than leave one out."""
        for _ in range(_LISTINGS):
            items = self._pages(path, what, filters)
            if items is not None:
                return items
        raise Unclear(f"Linode was asked to {what}, but the list is never whole: try again later.")

    def create(self, path: str, what: str, body: Body) -> Any:
        """Sent again only where it was certainly not acted on."""
        answer = self._ask("post", path, _had_no_effect, body=body)
        return _expect(answer, what, wants_room=True)

    def act(self, path: str, what: str, body: Body | None = None) -> None:
        """Like `create`; while another job keeps the thing busy, waits for about two minutes."""
        _expect(self._ask("post", path, _is_hindered, body=body), what, wants_room=True)

    def delete(self, path: str, what: str) -> None:
        """Absent already is a success."""
        answer = self._ask("delete", path, _is_transient)
        if not answer.absent:
            _expect(answer, what)

    def _pages(self, path: str, what: str, filters: Body | None) -> list[dict[str, Any]] | None:
        items: list[dict[str, Any]] = []
        page, pages, totals = 1, 1, set()
        while page <= pages:
            at = f"{path}?page={page}&page_size={_PAGE}"
            body = _expect(self._ask("get", at, _is_transient, filters=filters), what)
            try:
                data, pages, total = body["data"], int(body["pages"]), int(body["results"])
                well_formed = all(isinstance(item, dict) for item in data)
                # Pages that are promised without anything on them would be asked for for ever.
                well_formed &= bool(data) or page >= pages
            except (ArithmeticError, KeyError, TypeError, ValueError):
                well_formed = False
            if not well_formed:
                raise Unclear(f"Linode was asked to {what}, but answered with no list.")
            items += data
            totals.add(total)
            page += 1
        # Something that came or went in between moves others from page to page.
        distinct = {str(item.get("id", position)) for position, item in enumerate(items)}
        return items if totals == {len(distinct)} and len(distinct) == len(items) else None

    def _ask(
        self,
        method: str,
        path: str,
        may_repeat: Callable[[Answer], bool],
        *,
        body: Body | None = None,
        filters: Body | None = None,
    ) -> Answer:
        begun = self._clock.monotonic()
        pause = 1.0
        while True:
            answer = self._send(method, path, body, filters)
            wait = max(pause, answer.retry_after or 0)
            late = self._clock.monotonic() - begun >= _PATIENCE
            if not may_repeat(answer) or late or wait > _PATIENCE:
                return answer
            if answer.unsent and pause == 1.0:  # nobody should wait without knowing for what
                _LOG.warning("Linode cannot be reached; trying for two minutes")
            self._clock.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _send(self, method: str, path: str, body: Body | None, filters: Body | None) -> Answer:
        """Ask once. Failures become answers here: their exceptions hold the token's header."""
        call = partial(getattr(self._client, method), path, data=body, filters=filters)
        try:
            return Answer(200, body=call())
        except ApiError as error:
            answer = Answer.refusal(error)
        except requests.RequestException as error:
            answer = Answer.lost(error)
        except (AttributeError, KeyError, TypeError, RecursionError):
            # linode_api4 stumbles over an error that is not in the API's own form.
            answer = Answer(trouble="its answer made no sense")
        shown = tuple(reason.replace(self._secret, "[token]") for reason in answer.reasons)
        return replace(answer, reasons=shown)

    def _remember_scopes(self, response: requests.Response, **_: Any) -> None:
        self.scopes = response.headers.get("X-OAuth-Scopes") or self.scopes


class _TimeLimit(HTTPAdapter):
    """linode_api4 sets none, so that a dead connection would be waited for for ever."""

    def __init__(self, timeouts: Timeouts) -> None:
        super().__init__()
        self._timeouts = timeouts

    def send(self, *args: Any, **more: Any) -> requests.Response:
        limits = (self._timeouts.connect, self._timeouts.read)
        return super().send(*args, **{**more, "timeout": limits})


def _is_transient(answer: Answer) -> bool:
    return answer.transient


def _had_no_effect(answer: Answer) -> bool:
    return answer.nothing_done


def _is_hindered(answer: Answer) -> bool:
    return answer.nothing_done or answer.busy


def _expect(answer: Answer, what: str, *, wants_room: bool = False) -> Any:
    if not answer.ok:
        raise answer.failure(what, wants_room=wants_room)
    return answer.body


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def is_here(url: str) -> bool:
    try:
        return ipaddress.ip_address(urlsplit(url).hostname or "").is_loopback
    except ValueError:
        return False  # a name may come to mean another computer


def _check_address(url: str, ca: str | None) -> None:
    plain = re.fullmatch(r"https?://[^\s\\/?#@]+(/[^\s\\@]*)?", url)
    if not plain or not (url.startswith("https://") or is_here(url)):
        raise Failure(Cause.BAD_INPUT, "LINODE_URL must begin with https://: a token goes there.")
    if ca is not None and not Path(ca).is_file():
        raise Failure(Cause.BAD_INPUT, f"LINODE_CA: there is no file {ca}; name a CA file in PEM.")
