"""One program under many names: apt-get, nvidia-smi, mkfs.ext4, pip, … of a simulated machine.

    python -I -S programs.py NAME PATH ARGUMENT...

It answers as the real program would, in what a script can see: exit code, and the text of errors.
Every call is a line of JSON in /var/log/standins.log. It runs inside the machine, where of this
project nothing else can be seen: standard library only.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

_LOG = Path("/var/log/standins.log")
_STATE = Path("/var/lib/simulated")
_DISKS = Path("/dev/disk/by-id")
_UNITS = Path("/etc/systemd/system")
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
# A name, extras, conditions on the version: what pip takes without looking into the network.
_REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)(\[[^]]*\])?((==|>=|<=|~=|!=|<|>)[\w.*+!-]+,?)*")


def main() -> None:
    """Do what the program of that name would."""
    name, called, *arguments = sys.argv[1:]
    code = _run(name, Path(called), arguments)
    with _LOG.open("a") as log:
        log.write(json.dumps({"argv": [name, *arguments], "code": code}) + "\n")
    sys.exit(code)


def _run(name: str, called: Path, arguments: list[str]) -> int:
    match name:
        case "apt-get" | "apt":
            return _apt(arguments)
        case "dpkg":
            return _dpkg(arguments)
        case "modprobe":
            return _modprobe(arguments)
        case "nvidia-smi":
            return _nvidia_smi()
        case "mkfs.ext4":
            return _mkfs(arguments)
        case "blkid":
            return _blkid(arguments)
        case "mount":
            return _mount(arguments)
        case "umount":
            return _real(name, arguments)
        case "curl":
            return _say(6, "curl: (6) Could not resolve host")
        case "wget":
            return _say(4, "wget: unable to resolve host address")
        case "python3":
            return _python(arguments)
        case "pip":
            return _pip(called.parent.parent, arguments)
        case "torch":
            return _torch(called.parent.parent, arguments)
        case "systemctl":
            return _systemctl(arguments)
        case _:  # reboot, add-apt-repository, …: enough that they were called
            return 0


def _say(code: int, text: str) -> int:
    print(text, file=sys.stderr)
    return code


def _real(name: str, arguments: list[str]) -> int:
    return subprocess.run([f"/usr/bin/{name}", *arguments], check=False).returncode


def _machine(name: str) -> Any:
    """What the machine was made with: gpus, faults, packages."""
    return json.loads(Path("/etc/simulated.json").read_text())[name]


def _ill(fault: str) -> bool:
    return fault in _machine("faults")


# Packages


def _known(what: str) -> set[str]:
    note = _STATE / what
    return set(note.read_text().split()) if note.exists() else set()


def _note(what: str, names: set[str]) -> None:
    _STATE.mkdir(parents=True, exist_ok=True)
    (_STATE / what).write_text("\n".join(sorted(_known(what) | names)))


def _apt(arguments: list[str]) -> int:
    words, options, rest = [], [], iter(arguments)
    for argument in rest:
        if argument.startswith("-"):
            options.append(argument)
            if argument in ("-o", "-c", "-t"):
                next(rest, None)
        else:
            words.append(argument)
    command, *names = words or [""]
    if command == "update":
        _note("lists", {"updated"})
    if command != "install":
        return 0
    asked = not {"-y", "-qy", "-yq", "-qqy", "--yes", "--assume-yes"} & set(options)
    if asked and not sys.stdin.isatty():
        return _say(1, "Do you want to continue? [Y/n] Abort.")
    if not _known("lists"):
        return _say(100, f"E: Unable to locate package {names[0]}")
    attempts = len(_known("attempts"))
    _note("attempts", {str(attempts)})
    if _ill("apt-busy") and attempts == 0:
        return _say(100, "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held.")
    if _ill("apt-fails") and attempts > 0:
        return _say(100, f"E: Failed to fetch {names[0]}  503  Service Unavailable")
    # Without headers and dkms the driver installs, and nothing is compiled for this kernel.
    present = _known("packages") | set(names)
    if {"dkms", f"linux-headers-{os.uname().release}"} <= present:
        drivers = {name for name in names if name.startswith(("nvidia-driver-", "nvidia-open"))}
        _note("modules", {"nvidia"} if drivers else set())
    _note("packages", set(names))
    return 0


def _dpkg(arguments: list[str]) -> int:
    if "--print-architecture" in arguments:
        print("amd64")
    if arguments[:1] in (["-s"], ["--status"]):
        missing = set(arguments[1:]) - _known("packages")
        for name in missing:
            _say(1, f"dpkg-query: package '{name}' is not installed")
        return 1 if missing else 0
    return 0


# The driver


def _modprobe(arguments: list[str]) -> int:
    module = arguments[-1] if arguments else ""
    if module != "nvidia":
        return 0
    if module not in _known("modules"):
        folder = f"/lib/modules/{os.uname().release}"
        return _say(1, f"modprobe: FATAL: Module nvidia not found in directory {folder}")
    if not _machine("gpus"):
        return _say(1, "modprobe: ERROR: could not insert 'nvidia': No such device")
    _note("loaded", {"nvidia"})
    return 0


def _driver_answers() -> bool:
    return bool(_machine("gpus")) and "nvidia" in _known("loaded") and not _ill("driver")


def _nvidia_smi() -> int:
    if not any(name.startswith(("nvidia-utils", "nvidia-open")) for name in _known("packages")):
        return _say(127, "nvidia-smi: command not found")
    if not _driver_answers():
        print(
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
            "Make sure that the latest NVIDIA driver is installed and running."
        )
        return 9
    for number in range(_machine("gpus")):
        print(f"{number}, NVIDIA RTX 4000 Ada Generation (simulated), 580.95.05, 20475 MiB")
    return 0


# Services: what is enabled is started by the next boot, see `systemd.py`


def _systemctl(arguments: list[str]) -> int:
    command, *units = [word for word in arguments if not word.startswith("-")] or [""]
    if command not in ("enable", "disable"):
        return 0
    for unit in units:
        file = _UNITS / unit
        if command == "enable" and not file.is_file():
            return _say(1, f"Failed to enable unit: Unit file {unit} does not exist.")
        for target in re.findall(r"^WantedBy=(\S+)$", file.read_text(), re.MULTILINE):
            wanted = _UNITS / f"{target}.wants" / unit
            wanted.unlink(missing_ok=True)
            if command == "enable":
                wanted.parent.mkdir(exist_ok=True)
                wanted.symlink_to(file)
    return 0


# Volumes: a folder is blank until it has what every ext4 file system has


def _blank(device: Path) -> bool:
    return not (device / "lost+found").is_dir()


def _device(arguments: list[str]) -> Path | None:
    found = [Path(word) for word in arguments if word.startswith(f"{_DISKS}/")]
    return found[0] if found and found[0].is_dir() else None


def _mkfs(arguments: list[str]) -> int:
    device = _device(arguments)
    if device is None:
        return _say(1, "mkfs.ext4: No such file or directory while trying to find the device")
    if f"/disks/{device.name} " in Path("/proc/self/mountinfo").read_text():
        return _say(1, f"{device} is mounted; will not make a filesystem here!")
    for entry in device.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    (device / "lost+found").mkdir(0o700)
    return 0


def _blkid(arguments: list[str]) -> int:
    device = _device(arguments)
    if device is None or _blank(device):
        return 2
    print("ext4" if "value" in arguments else f'{device}: BLOCK_SIZE="4096" TYPE="ext4"')
    return 0


def _mount(arguments: list[str]) -> int:
    wanted = [line.split()[:2] for line in Path("/etc/fstab").read_text().splitlines()]
    if arguments == ["-a"]:
        return max((_mount(one) for one in wanted), default=0)
    if len(arguments) == 1:  # where /etc/fstab says what belongs there
        arguments = next((one for one in wanted if one[1:] == arguments), arguments)
    if not any(word.startswith(f"{_DISKS}/") for word in arguments):
        return _real("mount", arguments)
    device = _device(arguments)
    if device is None:
        return _say(32, f"mount: {arguments[-1]}: special device does not exist.")
    if _blank(device):
        return _say(32, f"mount: {arguments[-1]}: wrong fs type, bad superblock on {device}.")
    return _real("mount", ["--bind", str(device), arguments[-1]])


# Python


def _python(arguments: list[str]) -> int:
    """The image's Python, which has no packages, and no venv before it is installed."""
    if arguments[:2] != ["-m", "venv"]:
        return subprocess.run([sys.executable, *arguments], check=False).returncode
    if "python3-venv" not in _known("packages"):
        print("The virtual environment was not created: apt install python3-venv")
        return 1
    venv = Path(arguments[-1])
    packages = _packages(venv)
    packages.mkdir(parents=True, exist_ok=True)
    (venv / "bin").mkdir(exist_ok=True)
    home = Path(sys.executable).parent
    (venv / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    # After the environment's own packages come those of the computer that all of this runs on.
    (packages / "this-computer.pth").write_text("\n".join(_machine("packages")) + "\n")
    _write_program(venv / "bin/pip", f'{_standin("pip")} "$0" "$@"')
    _write_program(
        venv / "bin/python",
        'case "$1 ${2-}" in\n'
        f'"-m pip") shift 2; {_standin("pip")} "$0" "$@" ;;\n'
        f'"-c "*torch.cuda.is_available*) {_standin("torch")} "$0" "$@" ;;\n'
        f'esac\nexec -a "$0" {shlex.quote(sys.executable)} "$@"',
    )
    for name in ("python3", _PYTHON):
        _write_program(venv / "bin" / name, 'exec "${0%/*}/python" "$@"')
    return 0


def _packages(venv: Path) -> Path:
    return venv / "lib" / _PYTHON / "site-packages"


def _standin(name: str) -> str:
    return f"exec {shlex.join([sys.executable, '-I', '-S', str(Path(__file__)), name])}"


def _write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def _pip(venv: Path, arguments: list[str]) -> int:
    """Note requirements, and install wheels that are files; nothing comes over the network."""
    if arguments[:1] != ["install"]:
        return 0
    wheels, requirements, target = [], [], _packages(venv)
    rest = iter(arguments[1:])
    for argument in rest:
        if argument in ("-t", "--target"):
            target = Path(next(rest))
        elif argument in ("-r", "--requirement"):
            lines = Path(next(rest)).read_text().splitlines()
            requirements += [line.strip() for line in lines if line.strip()[:1] not in ("", "#")]
        elif argument in ("-i", "--index-url", "--extra-index-url", "--retries", "--timeout"):
            next(rest)
        elif argument.endswith(".whl"):
            wheels.append(Path(argument))
        elif not argument.startswith("-"):
            requirements.append(argument)
    names = set()
    for requirement in requirements:
        found = _REQUIREMENT.fullmatch(requirement)
        if not found:
            return _say(1, f"ERROR: Invalid requirement: '{requirement}'")
        names.add(found[1].lower())
    if _ill("pip") and names:
        return _say(1, f"ERROR: No matching distribution found for {min(requirements)}")
    with (venv / "requested.txt").open("a") as file:
        file.write("".join(f"{name}\n" for name in sorted(names)))
    for wheel in wheels:
        if not wheel.is_file():
            return _say(1, f"ERROR: {wheel} is not a file")
        _install(wheel, target)
    return 0


def _install(wheel: Path, target: Path) -> None:
    """Unpack a pure wheel in the place of an earlier version."""
    distribution = wheel.name.split("-")[0]
    for record in target.glob(f"{distribution}-*.dist-info/RECORD"):
        for line in record.read_text().splitlines():
            (target / line.rsplit(",", 2)[0].strip('"')).unlink(missing_ok=True)
    with zipfile.ZipFile(wheel) as file:
        file.extractall(target)


def _torch(venv: Path, arguments: list[str]) -> int:
    """Run a line that asks PyTorch for a GPU, with the answer that this machine would give."""
    requested = venv / "requested.txt"
    if not requested.exists() or "torch" not in requested.read_text().split():
        return _say(1, "ModuleNotFoundError: No module named 'torch'")
    torch = types.ModuleType("torch")
    torch.__dict__["cuda"] = types.SimpleNamespace(
        is_available=_driver_answers,
        device_count=lambda: _machine("gpus") if _driver_answers() else 0,
    )
    sys.modules["torch"] = torch
    sys.argv = arguments[:1]
    try:
        exec(arguments[1], {"__name__": "__main__"})
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else _say(1, str(end.code))
    except Exception as error:
        return _say(1, f"{type(error).__name__}: {error}")
    return 0


if __name__ == "__main__":
    main()
