"""What must hold after each case, whatever went wrong."""

from pathlib import PurePosixPath

from chaos import job
from chaos.controller import BUDGET, BUDGET_TO_LEARN
from chaos.faults import Fault
from chaos.play import Story, undisturbed
from chaos.world import World
from infra.protocol import run_key
from infra.stores import Store
from pipeline.run_record import RunRecord


def complaints(world: World, story: Story) -> list[str]:
    """What does not hold; nothing, as it should be."""
    found = [f"{thing} is left" for thing in world.left()]
    found += [f"{thing} was left by a controller that nobody killed" for thing in story.left]
    found += [*_bill(world, story), *_others(world), *_end(world, story), *_order(story)]
    return found + _log(world.store, story)


def _bill(world: World, story: Story) -> list[str]:
    dollars = sum(line.dollars for line in world.account.bill() if story.run_id in line.label)
    budget = BUDGET_TO_LEARN if story.trained else BUDGET
    return [f"it cost ${dollars:.2f} of ${budget:.2f}"] if dollars > budget else []


def _others(world: World) -> list[str]:
    touched, violations = world.account.touched, world.account.violations
    found = [f"somebody else's: {one}" for one in touched]
    found += [f"not as the API has it: {one}" for one in violations]
    touched.clear()
    violations.clear()
    return found


def _end(world: World, story: Story) -> list[str]:
    found = []
    for ending in story.endings:
        said = ending.outcome or {}
        cause = said.get("cause")
        if cause and not said["message"]:
            found.append(f"{cause} without a word")
        mistaken = cause == "INTERNAL" and story.fault is not Fault.RAISES
        if mistaken or cause in ("ENDLESS", "LEAKED"):
            found.append(f"{cause}: {said['message']}")
    last = story.endings[-1].outcome
    if last is None:
        found.append("who came after it was killed, too")
    elif "done" in last and last["done"] != _digest(world, story):
        found.append("it ended with other weights than a clean run")
    elif "done" in last and _recorded(world.store, story) != "done":
        found.append("it is done, and its record says something else")
    elif "done" not in last and not story.reaped:
        found.append(f"nobody could go on with it: {last}")
    return found


def _recorded(store: Store, story: Story) -> str:
    """The state in the run's record; that may be what lost its end, after the run was done."""
    record = store.read_whole(run_key(story.run_id, "run.json"), RunRecord)
    if record is None:
        return "done" if story.fault is Fault.TAIL else "damaged"
    return record.state


def _digest(world: World, story: Story) -> str:
    return undisturbed(world) if story.trained else job.state_after(job.STEPS)


def _order(story: Story) -> list[str]:
    """Whether at any moment a checkpoint's manifest in the store meant that its blob was there."""
    blobs, manifests = set[str](), set[str]()
    found = []
    for method, key in story.written:
        folder, _, name = key.rpartition("/")
        if not folder.startswith("checkpoints/"):
            continue
        there = manifests if name == "manifest.json" else blobs
        there.add(folder) if method == "PUT" else there.discard(folder)
        if folder in manifests - blobs:
            found.append(f"{method} {key}: the manifest was there, and its blob was not")
    return found


def _log(store: Store, story: Story) -> list[str]:
    """Pieces without a gap, and every step of the job in them."""
    log = b""
    for piece in store.list(run_key(story.run_id, "log")):
        if int(PurePosixPath(piece.key).stem) != len(log):
            return [f"the log has a gap at {len(log)}, or a piece twice: {piece.key}"]
        log += store.get(piece.key) or b""
    last = story.endings[-1].outcome
    if not last or "done" not in last or story.trained:
        return []
    seen = 0
    for line in log.decode().splitlines():
        match line.split():
            case ["begins", "at", step] if int(step) > seen:
                return [f"the log lacks steps {seen + 1} to {step}"]
            case ["begins", "at", step]:
                seen = int(step)
            case ["step", step, _] if int(step) != seen + 1:
                return [f"the log has step {step} after {seen}"]
            case ["step", step, _]:
                seen = int(step)
    whole = seen == job.STEPS and log.endswith(b"ends\n")
    return [] if whole else [f"the log ends with step {seen}: {log[-60:]!r}"]
