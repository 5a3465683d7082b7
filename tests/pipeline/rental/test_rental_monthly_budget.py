"""A monthly budget that is spent while a run has its machine."""

import pytest

from infra.failure import Cause
from infra.simulator.faults import Effect
from infra.stores import Store
from rentals import WORKING, Account, Renter, fails
from spending import rented


def test_a_lost_machine_is_not_replaced_beyond_it(
    renter: Renter, account: Account, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOC_TRAIN_MONTHLY_BUDGET", "40")

    def lose() -> None:
        rented(store, "261101-other", account.clock.now(), lease=90)
        account.faults.add(Effect.VANISH, label=renter.label, times=1)

    renter.listener.when("at work", lose)
    assert "VOC_TRAIN_MONTHLY_BUDGET" in fails(renter, Cause.BUDGET, WORKING)
    assert [bill.label for bill in account.bill()] == [renter.label]
