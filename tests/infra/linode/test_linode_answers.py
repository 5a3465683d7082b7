"""Each of Linode's refusals is the error that tells the caller what to do next."""

from collections.abc import Iterator

import pytest

from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.provider import (
    FirewallOrder,
    InstanceOrder,
    Kind,
    NoCapacity,
    Refused,
    Unauthorised,
    Unclear,
)
from servers.scripted import Reply, ScriptedServer
from stepped_clock import SteppedClock

ORDER = InstanceOrder(
    label="voc-train-r-t1",
    tags=("voc-train", "voc-train:run:r"),
    plan="g2-gpu-rtx4000a1-s",
    region="us-ord",
    authorized_key="ssh-ed25519 AAAA x",
    user_data="#cloud-config\n",
    firewall=11,
)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def linode(server: ScriptedServer, clock: SteppedClock) -> Linode:
    return Linode("token", server.url, clock=clock)


def refused(server: ScriptedServer, linode: Linode, reply: Reply) -> Failure:
    """How a create fails that is answered with `reply`; it is asked once in any case."""
    server.on("POST", "/linode/instances", reply)
    with pytest.raises(Failure) as caught:
        linode.create(ORDER)
    assert len(server.asked("POST", "/linode/instances")) == 1
    return caught.value


@pytest.mark.parametrize(
    "reason",
    [
        "There is no availability for the selected plan in the selected region",
        "We do not have enough capacity in us-ord for this plan.",
        "This plan is sold out.",
        "g2-gpu-rtx4000a1-s is not available in us-ord",
        "No available hosts",
    ],
)
@pytest.mark.parametrize("status", [400, 403, 409, 422, 503])
def test_no_machine_is_free(
    server: ScriptedServer, linode: Linode, status: int, reason: str
) -> None:
    failure = refused(server, linode, Reply.error(status, reason))

    assert type(failure) is NoCapacity
    assert failure.cause is Cause.NO_CAPACITY
    assert not failure.permanent


@pytest.mark.parametrize(
    ("reason", "cure"),
    [
        ("Account Limit reached. Please open a support ticket.", "support"),
        ("region is not valid", "another region"),
        ("A valid plan type by that ID was not found", "another plan"),
        ("Must provide valid root_pass, authorized_keys, or authorized_users", "root_pass"),
    ],
)
def test_a_refusal_says_why_and_what_helps(
    server: ScriptedServer, linode: Linode, reason: str, cure: str
) -> None:
    failure = refused(server, linode, Reply.error(400, reason))

    assert type(failure) is Refused
    assert failure.permanent
    assert reason.rstrip(".") in str(failure)
    assert cure in str(failure)
    assert ORDER.label in str(failure)


def test_a_refusal_names_the_field(server: ScriptedServer, linode: Linode) -> None:
    errors = [{"reason": "is too long", "field": "label"}, {"reason": "is strange"}]

    failure = refused(server, linode, Reply(400, {"errors": errors}))

    assert "label: is too long; is strange" in str(failure)


@pytest.mark.parametrize(
    ("status", "reason", "scopes", "cure"),
    [
        (401, "Invalid Token", "linodes:read_write", "expired"),
        (
            401,
            "Your OAuth token is not authorized to use this endpoint.",
            "linodes:read_write",
            "scope linodes:read_write",
        ),
        (403, "Unauthorized", "*", "may not do this"),
    ],
)
def test_a_token_that_does_not_reach(
    server: ScriptedServer, linode: Linode, status: int, reason: str, scopes: str, cure: str
) -> None:
    reply = Reply(status, {"errors": [{"reason": reason}]}, {"X-Accepted-OAuth-Scopes": scopes})

    failure = refused(server, linode, reply)

    assert type(failure) is Unauthorised
    assert cure in str(failure)
    assert "LINODE_TOKEN" in str(failure)


def test_who_may_not_even_see_the_profile_is_told_every_scope(
    server: ScriptedServer, linode: Linode
) -> None:
    errors = [{"reason": "Your OAuth token is not authorized to use this endpoint."}]
    header = {"X-OAuth-Scopes": "linodes:read_write"}
    server.on("GET", "/profile", Reply(401, {"errors": errors}, header))

    with pytest.raises(Unauthorised, match="volumes:read_write, account:read_only"):
        linode.check([Kind.INSTANCE, Kind.VOLUME])


@pytest.mark.parametrize(
    "reply",
    [
        # It may be the one that an earlier call of ours created, unheard.
        Reply(
            400,
            {"errors": [{"reason": "Label must be unique among your linodes", "field": "label"}]},
        ),
        Reply.error(400, "Linode busy."),
        Reply.error(500, "Internal Server Error"),
        Reply.error(500, "capacity of the database exceeded"),
        Reply(body={"id": "no number", "label": ORDER.label, "ipv4": []}),
        Reply(body={"id": 5, "label": ORDER.label, "ipv4": ["here"]}),
        Reply(body={"id": 5, "label": ORDER.label, "ipv4": [], "created": "yesterday"}),
        Reply(body=[]),
        Reply(body="null"),
    ],
)
def test_a_thing_that_may_have_been_created(
    server: ScriptedServer, linode: Linode, reply: Reply
) -> None:
    failure = refused(server, linode, reply)

    assert type(failure) is Unclear
    assert failure.cause is Cause.PROVIDER
    assert not failure.permanent


def test_a_busy_instance_is_waited_for(
    server: ScriptedServer, linode: Linode, clock: SteppedClock
) -> None:
    busy = Reply.error(400, "Linode busy.")
    server.on("POST", "/linode/instances/5/shutdown", busy, busy, Reply())

    linode.shut_down(5)

    assert clock.waits == [1, 2]


def test_an_instance_that_stays_busy_is_not_waited_for_for_ever(
    server: ScriptedServer, linode: Linode, clock: SteppedClock
) -> None:
    server.on("POST", "/linode/instances/5/boot", Reply.error(400, "Linode busy."))

    with pytest.raises(Unclear, match="busy"):
        linode.boot(5)

    assert 120 <= clock.monotonic() <= 180


def test_an_action_that_may_have_been_heard_is_asked_once(
    server: ScriptedServer, linode: Linode
) -> None:
    server.on("POST", "/linode/instances/5/boot", Reply.html(502), Reply())

    with pytest.raises(Unclear):
        linode.boot(5)

    assert len(server.requests) == 1


def test_deleting_what_is_busy_means_call_again(
    server: ScriptedServer, linode: Linode, clock: SteppedClock
) -> None:
    busy = Reply.error(400, "Linodes in the process of cloning cannot be deleted.")
    server.on("DELETE", "/linode/instances/5", busy)

    with pytest.raises(Unclear):
        linode.delete(Kind.INSTANCE, 5)

    assert clock.waits == []


def test_a_deletion_never_fails_for_want_of_room(server: ScriptedServer, linode: Linode) -> None:
    full = Reply.error(503, "The service is over capacity, try again.")
    server.on("DELETE", "/linode/instances/5", full)
    server.on("GET", "/linode/instances/5", full)

    with pytest.raises(Unclear):
        linode.delete(Kind.INSTANCE, 5)
    with pytest.raises(Unclear):
        linode.get(Kind.INSTANCE, 5)


def test_deleting_a_volume_that_cannot_be_detached_yet_means_call_again(
    server: ScriptedServer, linode: Linode, clock: SteppedClock
) -> None:
    disk = {"id": 7, "label": "v", "status": "active", "linode_id": 5, "io_ready": True}
    server.on("GET", "/volumes/7", Reply(body=disk))
    server.on("POST", "/volumes/7/detach", Reply.error(400, "Linode busy."))

    with pytest.raises(Unclear, match="busy"):
        linode.delete(Kind.VOLUME, 7)

    assert clock.waits == []
    assert server.asked("DELETE", "/volumes/7") == []


def test_what_is_locked_is_not_deleted_and_says_so(server: ScriptedServer, linode: Linode) -> None:
    server.on("DELETE", "/linode/instances/5", Reply.error(400, "This resource has a lock"))

    with pytest.raises(Refused, match="Remove the lock"):
        linode.delete(Kind.INSTANCE, 5)


@pytest.mark.parametrize("network", ["203.0.113.7/33", "home", ""])
def test_a_network_that_is_none_is_named(
    server: ScriptedServer, linode: Linode, network: str
) -> None:
    with pytest.raises(Refused, match=f"{network} is no network"):
        linode.create(FirewallOrder("voc-train-r-f", (), (network,)))

    assert server.requests == []
