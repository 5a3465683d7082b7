"""Who drives a run: one of those that ask, and the next one when it is gone."""

import contextlib
import subprocess
import sys
import threading
from datetime import datetime, timedelta

import pytest

from agents import until
from infra.claims import Claim, Hold
from infra.failure import Cause, Failure
from infra.protocol import now
from infra.stores import Store

NEVER = 3600.0  # seconds: no claim is renewed by itself


def hold(store: Store, *, every: float = 0.03, silent: float = 60) -> Hold:
    return Hold(store, "r", every=every, silent=timedelta(seconds=silent), say=lambda _: None)


def claims(store: Store) -> list[Claim]:
    found = [store.read(entry.key, Claim) for entry in store.list("runs/r/claims")]
    return [claim for claim in found if claim]


def test_one_holds_and_the_next_one_hears_who(store: Store) -> None:
    with hold(store) as first:
        first.must_hold()
        with pytest.raises(Failure, match=r"Run r is driven by .*, process \d+, since") as caught:
            hold(store).__enter__()
        assert caught.value.cause is Cause.CLAIMED
        first.must_hold()
        assert [claim.rank for claim in claims(store)] == [1]
    assert claims(store) == []
    with hold(store) as second:
        second.must_hold()


def test_whoever_has_been_silent_is_replaced_and_hears_it(store: Store) -> None:
    with hold(store, every=NEVER) as first:
        with hold(store, silent=0.2) as second:
            second.must_hold()
            with pytest.raises(Failure) as caught:
                first.must_hold()
            assert caught.value.cause is Cause.CLAIMED
            assert [claim.rank for claim in sorted(claims(store), key=lambda c: c.rank)] == [1, 2]
        # Its successor has gone, but it knows nothing of what that one did.
        with pytest.raises(Failure, match="was taken over by .*, which has ended") as caught:
            first.must_hold()
        assert caught.value.cause is Cause.CLAIMED
    with hold(store) as third:
        third.must_hold()


def test_a_successor_that_died_is_one_all_the_same(store: Store) -> None:
    with hold(store) as first:
        lost = Claim(owner="a", where="there", process="", time=now(), rank=2)
        store.write("runs/r/claims/a.json", lost)
        late = hold(store, silent=0.1)
        (written,) = (e.modified for e in store.list("runs/r/claims") if e.key.endswith("/a.json"))
        until(lambda: now() - written > late._silent)
        assert not holds_still(first)
        with late:
            late.must_hold()


def test_who_gave_up_before_it_held_the_run_replaces_nobody(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Hold) -> None:
        raise KeyboardInterrupt

    with hold(store, every=NEVER) as first:
        with monkeypatch.context() as patch:
            patch.setattr(Hold, "must_hold", interrupt)
            with pytest.raises(KeyboardInterrupt):
                hold(store, silent=0).__enter__()
        first.must_hold()


def test_who_only_asks_keeps_nobody_away(store: Store) -> None:
    asking = Claim(owner="a", where="there", time=now())
    store.write("runs/r/claims/a.json", asking)
    with hold(store) as one:
        one.must_hold()


def test_of_many_that_ask_at_once_one_goes_on(store: Store) -> None:
    holds = [hold(store) for _ in range(8)]
    entered: list[Hold] = []
    together = threading.Barrier(len(holds))

    def ask(one: Hold) -> None:
        together.wait()
        with contextlib.suppress(Failure):
            entered.append(one.__enter__())

    threads = [threading.Thread(target=ask, args=(one,)) for one in holds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    holders = [one for one in entered if holds_still(one)]
    for one in entered:
        one.__exit__()
    assert len(holders) == 1
    assert claims(store) == []


def holds_still(one: Hold) -> bool:
    try:
        one.must_hold()
    except Failure as failure:
        return failure.cause is not Cause.CLAIMED
    return True


def test_a_claim_is_written_again_and_again(store: Store) -> None:
    def written() -> datetime:
        (entry,) = store.list("runs/r/claims")
        return entry.modified

    with hold(store):
        first = written()
        until(lambda: written() > first)


HOLDER = """
import sys, time
from infra.claims import Hold
from infra.stores import Store
hold = Hold(Store.open(sys.argv[1]), "r").__enter__()
print("held", flush=True)
time.sleep(600)
"""


def test_a_killed_process_of_this_computer_is_not_waited_for(store: Store) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, store.url], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
        holder.wait()
    said: list[str] = []
    with Hold(store, "r", say=said.append) as next_one:
        next_one.must_hold()
        assert {claim.rank for claim in claims(store)} == {1, 2}
    assert said == []


def test_one_of_another_computer_is_waited_for(store: Store) -> None:
    lost = Claim(owner="a", where="there", process="0000/pid:[1] 1 1", time=now(), rank=1)
    store.write("runs/r/claims/a.json", lost)
    said: list[str] = []
    with Hold(store, "r", every=0.03, silent=timedelta(seconds=0.3), say=said.append) as mine:
        mine.must_hold()
    assert [line.split(";")[0] for line in said] == ["there drove this run a moment ago"]


def test_a_damaged_claim_holds_nothing(store: Store) -> None:
    store.put("runs/r/claims/a.json", b"{")
    with hold(store) as mine:
        mine.must_hold()


def test_a_candidate_whose_claim_is_damaged_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Store.write

    def damaged(self: Store, key: str, model: Claim) -> None:
        written(self, key, model)
        if model.rank == 0:
            self.put(key, (self.get(key) or b"")[:20])

    monkeypatch.setattr(Store, "write", damaged)
    with hold(store, every=NEVER) as mine:
        mine.must_hold()
        assert [claim.rank for claim in claims(store)] == [1]


def test_equals_agree_whatever_their_clocks_say(store: Store) -> None:
    with hold(store) as one:
        earlier = Claim(owner="zzz", where="there", time=now() - timedelta(days=1), rank=1)
        store.write("runs/r/claims/zzz.json", earlier)
        assert not holds_still(one)
        store.write("runs/r/claims/zzz.json", earlier.model_copy(update={"time": now()}))
        assert holds_still(one)
