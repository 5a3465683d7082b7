"""The HTTP side: who asks, whether they may, what goes wrong, and how an answer looks."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from infra.failure import Cause, Failure
from infra.simulator import filters
from infra.simulator.account import Account
from infra.simulator.answers import JSON, Refusal, not_found, without_nulls
from infra.simulator.faults import Effect
from infra.simulator.limits import RateLimits, limit
from infra.simulator.operations import Call, Operation
from infra.simulator.schema import Schema
from infra.simulator.things import Thing

_NOT_AUTHORIZED = "Your OAuth token is not authorized to use this endpoint."


@dataclass(frozen=True)
class Answer:
    """What goes back; nothing ever does where `silent`."""

    status: int
    body: JSON
    headers: dict[str, str]
    silent: bool = False


class API:
    """Linode's API over an account; `tokens` says the scopes of each token that there is."""

    def __init__(
        self,
        account: Account,
        operations: list[Operation],
        tokens: Mapping[str, str],
        *,
        schema: Schema | None = None,
        rate_limits: bool = False,
    ) -> None:
        self.violations: list[str] = []
        self.touched: list[str] = []
        self._account = account
        self._tokens = tokens
        self._schema = schema
        self._limits = RateLimits(account.clock, rate_limits)
        self._closing = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        routes: list[BaseRoute] = [self._route(operation) for operation in operations]
        faults = Route("/faults", self._faults, methods=["GET", "POST", "DELETE"])
        self.app = Starlette(
            routes=[Mount("/v4", routes=routes), Mount("/v4beta", routes=routes), faults],
            exception_handlers={HTTPException: _http_error},
        )
        self.app.router.redirect_slashes = False

    def release(self) -> None:
        """Let go of everybody who waits for an answer that never comes."""
        if self._loop:
            self._loop.call_soon_threadsafe(self._closing.set)

    def _route(self, operation: Operation) -> Route:
        async def endpoint(request: Request) -> Response:
            raw = await request.body()
            answer = await run_in_threadpool(self._answer, operation, request, raw)
            if answer.silent:
                self._loop = asyncio.get_running_loop()
                await self._closing.wait()
            return JSONResponse(answer.body, answer.status, answer.headers)

        return Route(operation.path, endpoint, methods=[operation.method])

    def _answer(self, operation: Operation, request: Request, raw: bytes) -> Answer:
        account, method = self._account, request.method
        path = "/" + request.url.path.split("/", 2)[2]
        headers = {"X-Accepted-OAuth-Scopes": operation.scopes or "*"}
        silent = False
        with account.schedule.lock:
            account.schedule.catch_up()
            try:
                known = {"method": method, "path": path}
                token, scopes = self._authorise(operation, request, known)
                headers |= {"X-OAuth-Scopes": scopes} if token else {}
                collection = operation.filterable != frozenset()
                headers |= self._limits.count(limit(method, path, collection), token)
                account.faults.refuse(method, path)
                if account.faults.strike(Effect.SILENT, **known):
                    account.tell(f"{method} {path} is never answered")
                    return Answer(503, {}, {}, silent=True)
                body = self._body(operation, raw)
                self._note_foreign(method, operation, request)
                restricted = account.faults.strike(Effect.RESTRICTED_USER, **known) is not None
                call = Call(path, request.path_params, body, restricted, bool(token))
                shown = self._shown(operation, call, request)
                if account.faults.strike(Effect.ACTED_502, **known):
                    raise Refusal("Bad Gateway", status=502)
                silent = account.faults.strike(Effect.ACTED_SILENT, **known) is not None
                answer = Answer(200, shown, headers, silent)
            except Refusal as refusal:
                answer = Answer(refusal.status, refusal.body, headers | refusal.headers)
            except Failure as failure:  # of the server behind object storage
                status = 400 if failure.cause is Cause.BAD_INPUT else 500
                answer = Answer(status, Refusal(str(failure)).body, headers)
            said = f" {answer.body['errors'][0]['reason']}" if answer.status != 200 else ""
            how = "done, but never answered" if silent else f"{answer.status}{said}"
            account.tell(f"{method} {path} {how}")
        return answer

    def _authorise(
        self, operation: Operation, request: Request, known: dict[str, str]
    ) -> tuple[str, str]:
        """The token that came with a request, "" for none, and its scopes. Raises a 401 Refusal."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if not token and operation.public:
            return "", ""
        scopes = self._tokens.get(token) if kind.lower() == "bearer" else None
        if scopes is None or self._account.faults.strike(Effect.EXPIRED_TOKEN, **known):
            raise Refusal("Invalid Token", status=401)
        scopes = self._without_lacking(scopes, known)
        for scope in filter(None, operation.scopes.split(",")):
            if not allows(scopes, scope):
                raise Refusal(_NOT_AUTHORIZED, status=401)
        return token, scopes

    def _without_lacking(self, scopes: str, known: dict[str, str]) -> str:
        held = _ALL_SCOPES if scopes == "*" else set(scopes.replace(",", " ").split())
        lacking = {
            scope
            for scope in held
            if self._account.faults.strike(Effect.MISSING_SCOPE, **known, scope=scope)
        }
        return " ".join(sorted(held - lacking)) if lacking else scopes

    def _body(self, operation: Operation, raw: bytes) -> JSON:
        try:
            body = json.loads(raw) if raw.strip() else {}
        except ValueError as error:
            raise Refusal("Invalid JSON") from error
        if not isinstance(body, dict):
            raise Refusal("Invalid JSON")
        body = without_nulls(body)
        if self._schema:
            wrong = self._schema.violations(operation.method, operation.path, body)
            if wrong:
                self.violations.extend(wrong)
                raise Refusal(wrong[0])
        return body

    def _note_foreign(self, method: str, operation: Operation, request: Request) -> None:
        if method == "GET" or "id" not in request.path_params:
            return
        for thing in self._account.everything():
            if thing.foreign and thing.id == request.path_params["id"]:
                self.touched.append(f"{method} {operation.path}: {thing.kind} {thing.label}")

    def _shown(self, operation: Operation, call: Call, request: Request) -> JSON:
        result = operation.answer(call)
        if isinstance(result, dict):
            return result
        rows = [(row, row.view() if isinstance(row, Thing) else row) for row in result]
        rows = filters.filtered(rows, request.headers.get("x-filter"), operation.filterable)
        faults = self._account.faults
        rows = [
            row
            for row in rows
            if not faults.strike(
                Effect.STALE_LISTING, path=call.path, label=str(row[1].get("label", ""))
            )
        ]
        shown, numbers = filters.page(rows, request.query_params)
        for thing, _ in shown:
            if isinstance(thing, Thing):
                thing.seen()
        return {"data": [view for _, view in shown], **numbers}

    async def _faults(self, request: Request) -> Response:
        faults = self._account.faults
        if request.method == "POST":
            try:
                wanted: dict[str, Any] = await request.json()
                faults.add(wanted.pop("effect"), **wanted)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                return JSONResponse({"errors": [{"reason": str(error)}]}, 400)
        elif request.method == "DELETE":
            faults.clear()
        return JSONResponse({"faults": faults.standing()})


_ALL_SCOPES = {
    f"{part}:{right}"
    for part in (
        "account",
        "events",
        "firewall",
        "images",
        "linodes",
        "object_storage",
        "stackscripts",
        "volumes",
    )
    for right in ("read_only", "read_write")
}


def allows(scopes: str, wanted: str) -> bool:
    """Whether a token with these scopes may do what wants that one; writing includes reading."""
    part = wanted.partition(":")[0]
    return any(
        scope in ("*", wanted, f"{part}:read_write", f"{part}:*")
        for scope in scopes.replace(",", " ").split()
    )


async def _http_error(request: Request, error: Exception) -> Response:
    """A path or a method that there is not."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    body = not_found().body if status == 404 else Refusal("Method Not Allowed").body
    return JSONResponse(body, status)
