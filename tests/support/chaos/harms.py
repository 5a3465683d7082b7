"""How each fault is done to a world in which a run takes place."""

import contextlib
import signal
import threading
from collections.abc import Callable

import psutil

from chaos.controller import Errand
from chaos.faults import Fault
from chaos.wire import NOTHING, Harm
from chaos.world import World
from infra.simulator.faults import Effect
from rentals import inside

_AWAY = 2.0  # seconds that a store is away, or refuses
_BESIDE = 1.5  # seconds after which who was replaced wakes up, while the other one works


def harm(world: World, run_id: str, fault: Fault, successor: Errand) -> Harm:
    """What becomes of an act of that run, with which the successor may go on."""
    match fault:
        case Fault.KILLED_BEFORE:
            return Harm(before=world.computers.kill)
        case Fault.KILLED_AFTER:
            return Harm(after=world.computers.kill, lost=True)
        case Fault.TERMINATED:
            return Harm(before=lambda: world.computers.kill(signal.SIGTERM))
        case Fault.RAISES:
            return Harm(raises=True)
        case Fault.WAKES_BESIDE | Fault.WAKES_AFTER:
            asleep = _BESIDE if fault is Fault.WAKES_BESIDE else None
            return Harm(before=lambda: world.computers.replace(successor, asleep))
        case Fault.LOST:
            return Harm(lost=True)
        case Fault.TIMES_OUT:
            return Harm(silent=True)
        case Fault.ANSWERS_429 | Fault.ANSWERS_500 | Fault.ANSWERS_502:
            return Harm(status=int(fault[-3:]))
        case Fault.AWAY:
            return Harm(before=lambda: _go_away(world), lost=True)
        case Fault.REFUSES:
            return Harm(before=lambda: _refuse(world), status=403)
        case Fault.TAIL:
            return Harm(after=lambda: world.cut_the_newest(run_id))
        case Fault.VANISHES:
            return Harm(before=lambda: _vanish(world, run_id))
        case Fault.FREEZES:
            return Harm(before=lambda: _freeze(world, run_id))
        case Fault.REBOOTS:
            return Harm(before=lambda: _reboot(world, run_id))
        case Fault.FILLS:
            return Harm(before=lambda: _inside(_fill))
        case Fault.AGENT_KILLED:
            return Harm(before=lambda: _inside(psutil.Process.kill, "infra.agent"))
        case Fault.JOB_KILLED:
            return Harm(before=lambda: _inside(psutil.Process.kill, "-c"))
        case Fault.CLOCK:
            return NOTHING


def make_clocks_wrong(world: World) -> None:
    """An hour off, on every machine that is rented from now on."""
    world.account.programs = {"date": 'exec /usr/bin/date --date="1 hour" "$@"'}


def mend(world: World) -> None:
    """What goes on for longer than one act ends."""
    world.account.programs = {}
    world.store_proxy.away.clear()
    world.store_proxy.refuses = None


def _go_away(world: World) -> None:
    world.store_proxy.away.set()
    _later(_AWAY, world.store_proxy.away.clear)


def _refuse(world: World) -> None:
    world.store_proxy.refuses = 403

    def welcome() -> None:
        world.store_proxy.refuses = None

    _later(_AWAY, welcome)


def _vanish(world: World, run_id: str) -> None:
    for instance in world.machines(run_id):
        world.account.faults.add(Effect.VANISH, label=instance.label, times=1)


def _freeze(world: World, run_id: str) -> None:
    for instance in world.machines(run_id):
        if instance.machine:
            instance.machine.freeze()
    _inside(psutil.Process.suspend)


def _reboot(world: World, run_id: str) -> None:
    for instance in world.machines(run_id):
        world.ask("POST", f"/linode/instances/{instance.id}/reboot")


def _inside(do: Callable[[psutil.Process], object], word: str = "") -> None:
    """To the processes of a machine, or to those with that word in their command."""
    for process in inside():
        with contextlib.suppress(psutil.Error):
            if not word or word in process.cmdline():
                do(process)


def _fill(process: psutil.Process) -> None:
    """No file of it grows any more."""
    process.rlimit(psutil.RLIMIT_FSIZE, (1, 1))


def _later(seconds: float, do: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()
