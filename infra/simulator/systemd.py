"""What systemd does at the boot of a simulated machine: it starts the services that are enabled.

Before them it mounts what /etc/fstab names.
"""

from pathlib import Path

from infra.simulator.machine_disk import environment

# What a service of root's has in its environment (systemd.exec(5)): as after a login, but for this.
ENVIRONMENT = environment({"SHELL": "/bin/sh"})
_UNITS = "etc/systemd/system"
_TARGET = "multi-user.target"
_START = "ExecStart="


def enabled_services(folder: Path) -> list[list[str]]:
    """The commands of the enabled services of the machine whose disk is `folder`, in order.

    Of a unit only `ExecStart` counts, and of the targets only the usual one.
    """
    names = sorted(link.name for link in (folder / _UNITS / f"{_TARGET}.wants").glob("*.service"))
    lines = [line for name in names for line in (folder / _UNITS / name).read_text().splitlines()]
    commands = [line.removeprefix(_START) for line in lines if line.startswith(_START)]
    return [["/bin/sh", "-c", f"mount -a; exec {command}"] for command in commands]
