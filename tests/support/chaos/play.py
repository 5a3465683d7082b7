"""One case from beginning to end: a run in which something goes wrong, and who comes after it."""

import functools
import secrets
from dataclasses import dataclass

from chaos.computers import Ending
from chaos.controller import Errand
from chaos.faults import Fault
from chaos.harms import harm, make_clocks_wrong, mend
from chaos.wire import NOTHING
from chaos.world import World
from pipeline.run import new_run_id

_KEY = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
_COME_AFTER = 3  # computers at most


@dataclass(frozen=True)
class Story:
    """What happened in a case, for the judge."""

    run_id: str
    fault: Fault | None
    struck: bool
    endings: list[Ending]  # of the first controller, and of the computers after it
    reaped: bool
    trained: bool  # a real net
    left: list[str]  # by the first controller, where nobody killed it
    written: list[tuple[str, str]]  # to the store: PUT or DELETE, and the key within the run


def play(
    world: World, target: str, fault: Fault | None, *, reap: bool, trained: bool = False
) -> Story:
    """A run in which that goes wrong at the act of that name; nothing does without a fault."""
    run_id = new_run_id()
    world.account.faults.clear()
    world.store_proxy.done.clear()
    errand = functools.partial(_errand, world, run_id, trained=trained)
    successor = errand(resume=True)
    world.board.expect(target, harm(world, run_id, fault, successor) if fault else NOTHING)
    if fault is Fault.CLOCK:  # at no act, but from the start
        make_clocks_wrong(world)
        world.board.struck = True
    endings = [world.computers.do(errand()), *world.computers.successors()]
    left = [] if endings[0].outcome is None else world.left()
    mend(world)
    struck = world.board.struck
    for number in range(_COME_AFTER):
        outcome = endings[-1].outcome
        if outcome and ("done" in outcome or "reaped" in outcome):
            break
        if number and outcome and outcome.get("cause") in ("CORRUPT", "BAD_INPUT"):
            reap = True  # nobody can go on with what is no run any more
        endings.append(world.computers.do(errand(resume=not reap, reap=reap)))
    return Story(run_id, fault, struck, endings, reap, trained, left, world.written(run_id))


@functools.lru_cache(maxsize=1)
def undisturbed(world: World) -> str:
    """The digest that a real training ends with when nothing goes wrong."""
    (ending,) = play(world, "", None, reap=False, trained=True).endings
    return (ending.outcome or {})["done"]


def _errand(
    world: World, run_id: str, *, trained: bool, resume: bool = False, reap: bool = False
) -> Errand:
    """For a computer with an empty home; one that comes after has a token and the store's URL."""
    name = secrets.token_hex(4)
    home = world.folder / f"home-{name}"
    home.mkdir()
    fresh = resume or reap
    known = {k: v for k, v in world.environment.items() if not (fresh and k in _KEY)}
    here = {"HOME": str(home), "VOC_TRAIN_HOME": str(home), "VOC_TRAIN_STORE": world.store.url}
    return Errand(
        run_id,
        known | here,
        str(world.folder / f"said-{name}"),
        resume=resume,
        reap=reap,
        marks=None if fresh else world.marks.port,
        dataset=world.dataset if trained else "",
    )
