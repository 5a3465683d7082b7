"""The cases: every boundary of a clean run with every fault that fits it."""

import hashlib
from dataclasses import dataclass

from chaos.faults import Fault, fitting
from chaos.judge import complaints
from chaos.play import play
from chaos.world import World

_CHANCES = 3
_TRAINED = "trainer "  # before the name of one in which a real net is trained
_WITH_TRAINER = (
    "agent:store:PUT runs/RUN/checkpoints/ID/manifest.json#1 vanishes",
    "agent:store:PUT runs/RUN/checkpoints/ID/manifest.json#1 agent-killed",
    "agent:store:PUT runs/RUN/checkpoints/ID/manifest.json#1 job-killed",
    "agent:store:PUT runs/RUN/checkpoints/ID/manifest.json#1 reboots",
    "agent:store:PUT runs/RUN/checkpoints/ID/manifest.json#1 away",
    "agent:store:PUT runs/RUN/checkpoints/ID/manifest.json#1 killed-before",
    "agent:store:PUT runs/RUN/metrics.jsonl#1 freezes",
    "agent:store:PUT runs/RUN/metrics.jsonl#1 tail",
    "agent:store:PUT runs/RUN/result.json#1 killed-before",
    "agent:store:GET runs/RUN/spec.json#1 agent-killed",
    "controller:ssh:launch start#1 killed-after",
    "controller:stage:train ends#1 raises",
)


@dataclass(frozen=True)
class Case:
    """One act that goes wrong in one way; its name is all that is needed to try it again."""

    name: str

    @property
    def target(self) -> str:
        """The boundary, or nothing where the fault is there from the start."""
        return self.name.removeprefix(_TRAINED).rpartition(" ")[0]

    @property
    def trained(self) -> bool:
        """Whether a real net is trained."""
        return self.name.startswith(_TRAINED)

    @property
    def fault(self) -> Fault:
        """What goes wrong there."""
        return Fault(self.name.rpartition(" ")[2])

    @property
    def reaped(self) -> bool:
        """Whether what comes after is the reaper, and not somebody who goes on."""
        return not self.trained and self.share(4) == 0

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
    """All cases, from the acts of clean runs. Raises RuntimeError where one is not clean.

    What is in one of two runs only, such as a request that was slow and was asked again, is left.
    """
    runs = []
    for _ in range(2):
        story = play(world, "", None, reap=False)
        if wrong := complaints(world, story):
            raise RuntimeError(f"the clean run is not clean: {'; '.join(wrong)}")
        runs.append(dict.fromkeys(world.board.passed))
    acts = [act for act in runs[0] if act in runs[1]]
    cases = [Case(f"{act} {fault}") for act in acts for fault in fitting(act)]
    cases += [Case(f"{_TRAINED}{name}") for name in _WITH_TRAINER]
    return [*cases, Case(f"start {Fault.CLOCK}")]


def tried(world: World, case: Case) -> Verdict:
    """Play it, and judge. Time passes unevenly: an act that did not come has more chances."""
    for _ in range(_CHANCES):
        story = play(world, case.target, case.fault, reap=case.reaped, trained=case.trained)
        wrong = complaints(world, story)
        if wrong or story.struck:
            world.clear()
            break
    else:
        wrong.append("it never came to that")
    return Verdict(
        case,
        sum(e.seconds for e in story.endings),
        tuple(ending.word for ending in story.endings),
        tuple(wrong),
    )
