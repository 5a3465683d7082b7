"""How a rented machine is, as far as the provider says it."""

import pytest

from infra.provider import Kind, Thing
from infra.rental import Rental
from infra.rented import Watch
from infra.simulator import Simulator


@pytest.mark.parametrize("effect", ["expired_token", "server_error"])
def test_a_machine_is_not_given_up_because_nobody_may_ask(
    rental: Rental, simulator: Simulator, effect: str
) -> None:
    watch = Watch(rental, Thing(Kind.INSTANCE, 5, "there-was-one"))
    simulator.faults.add(effect, method="GET", path="/linode/instances/*")
    assert watch() == "unknown"
    simulator.faults.clear()
    for _ in range(2):
        rental.clock.sleep(60)
        said = watch()
    assert said == "gone"
