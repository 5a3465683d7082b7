"""The cases: every boundary of a clean run with every fault that fits it."""

import hashlib
from dataclasses import dataclass

from chaos.faults import Fault, fitting
from chaos.judge import complaints
from chaos.world import World


@dataclass(frozen=True)
class Case:
    """One act that goes wrong in one way; its name is all that is needed to try it again."""

    name: str

    @property
    def target(self) -> str:
        """The boundary, or nothing where the fault is there from the start."""
        return self.name.rpartition(" ")[0]

    @property
    def fault(self) -> Fault:
        """What goes wrong there."""
        return Fault(self.name.rpartition(" ")[2])

    @property
    def reaped(self) -> bool:
        """Whether what comes after is the reaper, and not somebody who goes on."""
        return self.share(4) == 0

    def share(self, shares: int) -> int:
        """Which of so many parts of all cases it belongs to, whatever the others are."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4]) % shares


@dataclass(frozen=True)
class Verdict:
    """What came of a case; it holds where nothing is wrong."""

    case: Case
    seconds: float
    ends: tuple[str, ...]  # of each computer that took part, by cause
    wrong: tuple[str, ...]


def recorded(world: World) -> list[Case]:
    """All cases, from the acts of a clean run. Raises RuntimeError where that is not clean."""
    story = world.play("", None, reap=False)
    if wrong := complaints(world, story):
        raise RuntimeError(f"the clean run is not clean: {'; '.join(wrong)}")
    acts = dict.fromkeys(world.board.passed)
    cases = [Case(f"{act} {fault}") for act in acts for fault in fitting(act)]
    return [*cases, Case(f"start {Fault.CLOCK}")]


def tried(world: World, case: Case) -> Verdict:
    """Play it, and judge."""
    story = world.play(case.target, case.fault, reap=case.reaped)
    wrong = complaints(world, story)
    if not story.struck:
        wrong.append("it never came to that")
    return Verdict(case, sum(e.seconds for e in story.endings), story.ends, tuple(wrong))
