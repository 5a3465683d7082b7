"""What goes to Linode and back: lost, late, cut, repeated or not, and no token anywhere else."""

import logging
import re
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.linode.api import Timeouts
from infra.provider import Kind, Refused, Unauthorised, Unclear, VolumeOrder
from servers.certificates import issue
from servers.scripted import Reply, ScriptedServer
from stepped_clock import SteppedClock

TOKEN = "canary-3f2a9c-token"
ORDER = VolumeOrder("voc-train-r-v1", ("voc-train",), "us-ord", 20)
VOLUME = {
    "id": 7,
    "label": ORDER.label,
    "status": "creating",
    "created": "2026-11-21T10:00:00",
    "size": 20,
    "linode_id": None,
    "io_ready": False,
    "region": "us-ord",
    "tags": ["voc-train"],
}
BUSY = Reply.error(429, "Too many requests")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def linode(server: ScriptedServer, clock: SteppedClock) -> Linode:
    return Linode(TOKEN, server.url, clock=clock, timeouts=Timeouts(connect=5, read=0.3))


def page(items: list[dict[str, object]], page: int = 1, pages: int = 1, results: int = -1) -> Reply:
    total = len(items) if results < 0 else results
    return Reply(body={"data": items, "page": page, "pages": pages, "results": total})


PASSING = [
    Reply.error(408, "Timeout"),
    Reply.error(429, "Too many requests"),
    Reply.error(500, "Internal Server Error"),
    Reply.html(502),
    Reply.html(503),
    Reply.html(504),
    Reply.html(400),
    Reply(body={"id": 7, "label": "a label"}, cut=9),
    Reply(body="<p>Welcome to this hotel's network</p>"),
    Reply(500, ["no", "dict"]),
    Reply(500, {"errors": None}),
    Reply(500, {"errors": [{"field": "without a reason"}]}),
]


@pytest.mark.parametrize("trouble", PASSING, ids=lambda r: f"{r.status}-{str(r.body)[:12]}")
def test_a_read_is_repeated_until_it_is_answered(
    server: ScriptedServer, linode: Linode, trouble: Reply
) -> None:
    server.on("GET", "/volumes/7", trouble, trouble, Reply(body=VOLUME))

    thing = linode.get(Kind.VOLUME, 7)

    assert thing is not None
    assert thing.label == ORDER.label


def test_a_read_is_not_repeated_for_ever(
    server: ScriptedServer, linode: Linode, clock: SteppedClock
) -> None:
    server.on("GET", "/volumes/7", Reply.html(502))

    with pytest.raises(Unclear, match="502"):
        linode.get(Kind.VOLUME, 7)

    assert 4 < len(server.requests) < 12
    assert 120 <= clock.monotonic() <= 180


def test_a_server_that_never_answers_is_given_up(server: ScriptedServer, linode: Linode) -> None:
    server.on("GET", "/volumes/7", Reply(silent=True), Reply(body=VOLUME))
    server.on("POST", "/volumes", Reply(silent=True))

    assert linode.get(Kind.VOLUME, 7) is not None
    with pytest.raises(Unclear, match="did not answer in time"):
        linode.create(ORDER)
    assert len(server.asked("POST", "/volumes")) == 1


@pytest.mark.parametrize(
    "trouble",
    [trouble for trouble in PASSING if trouble.status != 429],
    ids=lambda r: f"{r.status}-{str(r.body)[:12]}",
)
def test_a_create_that_may_have_been_heard_is_asked_once(
    server: ScriptedServer, linode: Linode, trouble: Reply
) -> None:
    server.on("POST", "/volumes", trouble, Reply(body=VOLUME))

    with pytest.raises(Unclear, match=re.escape(ORDER.label)):
        linode.create(ORDER)

    assert len(server.requests) == 1


def test_a_create_that_was_not_heard_waits_as_long_as_it_is_told(
    server: ScriptedServer, linode: Linode, clock: SteppedClock
) -> None:
    wait = Reply.error(429, "Too many requests", Retry_After="47")
    server.on("POST", "/volumes", wait, wait, Reply(body=VOLUME))

    linode.create(ORDER)

    assert clock.waits == [47, 47]


def test_a_wait_of_an_hour_is_not_waited(
    server: ScriptedServer, linode: Linode, clock: SteppedClock
) -> None:
    server.on("GET", "/volumes/7", Reply.error(429, "Too many requests", Retry_After="3600"))

    with pytest.raises(Unclear, match="no more requests for 3600 s"):
        linode.get(Kind.VOLUME, 7)

    assert clock.waits == []


@pytest.mark.parametrize("after", ["soon", "-5", "nan", "Wed, 21 Oct 2026 07:28:00 GMT", "0"])
def test_a_strange_retry_after_is_no_reason_to_hurry(
    server: ScriptedServer, linode: Linode, clock: SteppedClock, after: str
) -> None:
    wait = Reply.error(429, "Too many requests", Retry_After=after)
    server.on("GET", "/volumes/7", wait, wait, Reply(body=VOLUME))

    linode.get(Kind.VOLUME, 7)

    assert clock.waits == [1, 2]


def test_a_server_that_is_not_there_is_asked_again_even_to_create(clock: SteppedClock) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v4"

        with pytest.raises(Unclear, match="cannot be reached"):
            Linode(TOKEN, url, clock=clock).create(ORDER)

    assert len(clock.waits) > 3


@pytest.mark.parametrize("ask", [lambda x: x.get(Kind.VOLUME, 7), lambda x: x.create(ORDER)])
def test_maintenance_is_not_waited_for(
    server: ScriptedServer, linode: Linode, ask: Callable[[Linode], object]
) -> None:
    down = Reply(503, {"errors": [{"reason": "later"}]}, {"X-Maintenance-Mode": "all,read-only"})
    server.on("GET", "/volumes/7", down)
    server.on("POST", "/volumes", down)

    with pytest.raises(Unclear, match="maintenance"):
        ask(linode)

    assert len(server.requests) == 1


def test_a_delete_is_repeated_and_finds_its_work_done(
    server: ScriptedServer, linode: Linode
) -> None:
    path = "/linode/instances/5"
    server.on("DELETE", path, Reply.html(502), Reply.error(404, "Not found"))

    linode.delete(Kind.INSTANCE, 5)

    assert len(server.asked("DELETE", path)) == 2


def test_absent_is_what_linode_says_and_not_what_a_gateway_says(
    server: ScriptedServer, linode: Linode
) -> None:
    assert linode.get(Kind.INSTANCE, 5) is None
    linode.delete(Kind.INSTANCE, 5)

    server.on("GET", "/linode/instances/5", Reply.html(404))
    server.on("DELETE", "/linode/instances/5", Reply.html(404))
    with pytest.raises(Unclear):
        linode.get(Kind.INSTANCE, 5)
    with pytest.raises(Unclear):
        linode.delete(Kind.INSTANCE, 5)


def test_the_token_goes_to_no_other_server(server: ScriptedServer, linode: Linode) -> None:
    with ScriptedServer() as other:
        away = Reply(302, {}, {"Location": f"{other.url}/volumes/7"})
        server.on("GET", "/volumes/7", away)
        server.on("POST", "/volumes", away)

        with pytest.raises(Unclear, match="another server"):
            linode.get(Kind.VOLUME, 7)
        with pytest.raises(Unclear, match="another server"):
            linode.create(ORDER)

        assert other.requests == []


@pytest.mark.parametrize(
    "url", ["http://api.linode.com/v4", "http://localhost/v4", "ftp://127.0.0.1", "api.linode.com"]
)
def test_the_token_goes_nowhere_in_clear_text(url: str) -> None:
    with pytest.raises(Failure, match="https") as caught:
        Linode(TOKEN, url)
    assert caught.value.cause is Cause.BAD_INPUT


def test_a_missing_ca_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="ca.pem"):
        Linode(TOKEN, ca=str(tmp_path / "ca.pem"))


def test_who_cannot_prove_to_be_linode_is_told_nothing(tmp_path: Path, clock: SteppedClock) -> None:
    certificates = issue(tmp_path)
    with ScriptedServer(certificates) as server:
        server.on("GET", "/volumes/7", Reply(body=VOLUME))

        with pytest.raises(Refused, match="LINODE_CA"):
            Linode(TOKEN, server.url, clock=clock).get(Kind.VOLUME, 7)
        assert server.requests == []
        assert clock.waits == []

        trusting = Linode(TOKEN, server.url, str(certificates.ca), clock)
        assert trusting.get(Kind.VOLUME, 7) is not None


def test_a_netrc_does_not_replace_the_token(
    clock: SteppedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login somebody password something\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("NO_PROXY", "localhost")
    certificates = issue(tmp_path)
    with ScriptedServer(certificates) as server:
        server.on("GET", "/volumes/7", Reply(body=VOLUME))
        url = server.url.replace("127.0.0.1", "localhost")

        Linode(TOKEN, url, str(certificates.ca), clock).get(Kind.VOLUME, 7)

    assert server.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_no_proxy_comes_before_this_computer(
    server: ScriptedServer, linode: Linode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    server.on("GET", "/volumes/7", Reply(body=VOLUME))

    assert linode.get(Kind.VOLUME, 7) is not None


def test_no_request_relies_on_a_connection_that_may_have_died(
    server: ScriptedServer, linode: Linode
) -> None:
    linode.delete(Kind.INSTANCE, 5)

    assert server.requests[0].headers["Connection"] == "close"


def test_a_list_is_whole(server: ScriptedServer, linode: Linode) -> None:
    items = [{**VOLUME, "id": number} for number in range(1100)]
    parts = [items[:500], items[500:1000], items[1000:]]
    server.on("GET", "/volumes", *(page(part, n, 3, 1100) for n, part in enumerate(parts, 1)))

    assert [thing.id for thing in linode.list(Kind.VOLUME)] == list(range(1100))
    assert [request.query["page"] for request in server.requests] == ["1", "2", "3"]
    assert {request.query["page_size"] for request in server.requests} == {"500"}


def test_a_list_that_changes_while_it_is_read_is_read_again(
    server: ScriptedServer, linode: Linode
) -> None:
    items = [{**VOLUME, "id": number} for number in range(4)]
    first, last = page(items[:2], 1, 2, 4), page(items[2:], 2, 2, 4)
    # One of the first page went away, so that the third moved there, unseen.
    moved = page(items[3:], 2, 2, 3)
    server.on("GET", "/volumes", first, moved, first, last)

    assert len(linode.list(Kind.VOLUME)) == 4


@pytest.mark.parametrize(
    "answer",
    [
        page([VOLUME], results=2),
        page([VOLUME, VOLUME]),
        page([VOLUME, VOLUME], results=1),
        page([], pages=3, results=700),
        Reply(body={}),
        Reply(body=[VOLUME]),
        Reply(body={"data": ["x"], "pages": 1, "results": 1}),
        Reply(body={"data": [{"id": 1}], "pages": 1, "results": 1}),
        Reply(body={"data": None, "pages": 1, "results": 0}),
    ],
)
def test_half_a_list_is_none(server: ScriptedServer, linode: Linode, answer: Reply) -> None:
    server.on("GET", "/volumes", answer)

    with pytest.raises(Unclear):
        linode.list(Kind.VOLUME)


def test_the_token_is_shown_nowhere(
    server: ScriptedServer,
    linode: Linode,
    clock: SteppedClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with ScriptedServer() as closed:
        gone = closed.url
    echo = Reply(401, {"errors": [{"reason": f"Invalid Token Bearer {TOKEN}"}]})
    troubles = [*PASSING, Reply(silent=True), echo, Reply.error(400, f"strange {TOKEN}")]
    clients = [(linode, trouble) for trouble in troubles]
    clients += [(Linode(TOKEN, gone, clock=clock), Reply())]
    clients += [(Linode(f"{TOKEN}\n", server.url, clock=clock), Reply())]
    shown = [repr(linode), str(vars(linode))]

    for client, trouble in clients:
        server.on("POST", "/volumes", trouble)
        with pytest.raises(Failure) as caught:
            client.create(ORDER)
        error: BaseException | None = caught.value
        shown += traceback.format_exception(caught.value)
        while error is not None:
            shown += [str(error), repr(error), str(vars(error))]
            error = error.__cause__ or error.__context__

    assert len(clients) > 10
    assert TOKEN not in "".join(shown)
    assert TOKEN not in caplog.text
    assert TOKEN not in "".join(str(vars(record)) for record in caplog.records)


def test_a_wrong_token_is_not_tried_twice(server: ScriptedServer, linode: Linode) -> None:
    server.on("GET", "/volumes/7", Reply.error(401, "Invalid Token"))

    with pytest.raises(Unauthorised, match="LINODE_TOKEN"):
        linode.get(Kind.VOLUME, 7)

    assert len(server.requests) == 1


def test_what_linode_does_not_understand_is_refused_once(
    server: ScriptedServer, linode: Linode
) -> None:
    server.on("GET", "/volumes/7", Reply.error(400, "Cannot filter on foo"))

    with pytest.raises(Refused, match="Cannot filter on foo"):
        linode.get(Kind.VOLUME, 7)

    assert len(server.requests) == 1
