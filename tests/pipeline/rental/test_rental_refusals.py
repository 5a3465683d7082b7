"""What cannot work is refused before anything is created, with the cure in a sentence."""

from pathlib import Path
from typing import Any

import pytest

from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.reaper import reap
from infra.simulator.faults import Effect
from infra.stores import Store
from rentals import Account, Renter, voc_train
from servers.rgw import RGW


@pytest.fixture(autouse=True)
def untouched(account: Account) -> Any:
    """Whatever is refused, the account stays as it was."""
    yield
    assert not [said for _, said in account.timeline if "created" in said]
    assert account.bill() == []


def refuses(renter: Renter, cause: Cause, *words: str) -> None:
    with pytest.raises(Failure) as caught:
        renter.rent()
    assert caught.value.cause is cause
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("terms", "cause", "word"),
    [
        ({"plan": "g9-none"}, Cause.BAD_INPUT, "g9-none"),
        ({"region": "xx-none"}, Cause.BAD_INPUT, "xx-none"),
        ({"budget": 0.5}, Cause.BUDGET, "--budget"),
        ({"reaper": True}, Cause.BAD_INPUT, "voc-train reap --delete"),
    ],
)
@pytest.mark.usefixtures("renter")
def test_terms_that_cannot_be_met(
    store: Store, terms: dict[str, Any], cause: Cause, word: str
) -> None:
    refuses(Renter(store, **terms), cause, word)


@pytest.mark.parametrize(
    ("effect", "limits", "word"),
    [
        (Effect.EXPIRED_TOKEN, {}, "token"),
        (Effect.MISSING_SCOPE, {"scope": "firewall:*"}, "firewall:read_write"),
        (Effect.RESTRICTED_USER, {}, "unrestricted"),
    ],
)
def test_a_token_that_does_not_reach(
    renter: Renter, account: Account, effect: Effect, limits: dict[str, str], word: str
) -> None:
    account.faults.add(effect, **limits)
    refuses(renter, Cause.BAD_INPUT, word)


@pytest.mark.parametrize("effect", [Effect.PRICE_ZERO, Effect.PRICE_NONE])
def test_a_machine_without_a_price(store: Store, account: Account, effect: Effect) -> None:
    account.faults.add(effect, plan="g2-gpu-rtx4000a1-s")
    renter = Renter(store, plan="g2-gpu-rtx4000a1-s")
    with pytest.raises(Failure, match="price"):
        renter.rent()


def test_a_bucket_that_is_not_there(
    renter: Renter, rgw: RGW, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in rgw.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Failure, match="never-made"):
        Renter(Store.open("s3://never-made")).rent()


def test_without_a_reaper_the_command_line_says_what_to_run(
    account: Account, store: Store, archive: Path
) -> None:
    asked = ("run", "linode", "--archive", str(archive), "--yes")
    assert "--no-reaper" in voc_train(asked, {}, code=2).stderr

    reap(Linode.from_environment(account.clock), store, account.clock, delete=False)
    assert "--no-reaper" in voc_train(asked, {}, code=2).stderr, "one that only looks is none"
