"""A fixed sample of the fault harness's cases; `make chaos` tries all of them."""

from pathlib import Path

import pytest

from chaos.cases import Case, Verdict
from chaos.workers import all_tried
from infra.failure import Failure
from infra.simulator.machine import must_be_possible

SAMPLE = (Path(__file__).parent / "sample.txt").read_text().splitlines()


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    """Of all of them: two at the same time are tried in the time of one."""
    try:
        must_be_possible()
    except Failure as failure:
        pytest.skip(str(failure))
    return {one.case.name: one for one in all_tried([Case(name) for name in SAMPLE], workers=2)}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SAMPLE)
def test_nothing_is_lost(name: str, verdicts: dict[str, Verdict]) -> None:
    assert not verdicts[name].wrong, verdicts[name]


def test_the_sample_is_worth_the_name() -> None:
    faults = {Case(name).fault for name in SAMPLE}
    places = {name.split(":")[1] for name in SAMPLE if ":" in name}
    assert len(SAMPLE) == len(set(SAMPLE)) >= 60
    assert len(faults) >= 18
    assert places == {"provider", "store", "ssh", "stage"}
