"""What a machine shows: the kernel's figures and words, and a GPU that stops answering."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.evidence import Evidence, Witness


class Box:
    """A machine's /proc, /sys/fs/cgroup and /dev/kmsg, as far as they are read."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.cgroups, self.kernel_log = (folder / n for n in ("proc", "cg", "kmsg"))
        self.own = self.cgroups / "user.slice/session-1.scope"
        (self.proc / "self").mkdir(parents=True)
        self.own.mkdir(parents=True)
        (self.proc / "self/cgroup").write_text("0::/user.slice/session-1.scope\n")
        self.kills(0)
        self.kills_elsewhere(3)
        self.kernel_log.write_text("4,1,1,-;Out of memory: Killed process 7 (before)\n")

    def kills(self, number: int) -> None:
        events = f"low 0\nhigh 0\nmax 9\noom 1\noom_kill {number}\noom_group_kill 0\n"
        (self.own / "memory.events").write_text(events)

    def kills_elsewhere(self, number: int) -> None:
        (self.proc / "vmstat").write_text(f"nr_free_pages 1\noom_kill {number}\nswap 0\n")

    def kernel_says(self, line: str) -> None:
        with self.kernel_log.open("a") as log:
            log.write(f"4,2,2,-;{line}\n")

    def witness(self) -> Witness:
        return Witness(proc=self.proc, cgroups=self.cgroups, kernel_log=self.kernel_log)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return Box(tmp_path)


@pytest.fixture
def nvidia_smi(tmp_path: Path, box: Box) -> Callable[[str], None]:
    """Says what nvidia-smi does from now on, in words of a shell."""

    def does(script: str) -> None:
        program = tmp_path / "bin/nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return does


def test_nothing_happened(box: Box) -> None:
    assert box.witness().evidence() == Evidence(memory_ran_out=False, gpu_trouble=None)


def test_the_cgroup_counts_who_was_killed_for_memory(box: Box) -> None:
    witness = box.witness()
    box.kills(1)
    assert witness.evidence().memory_ran_out is True


def test_others_that_were_killed_do_not_count(box: Box) -> None:
    witness = box.witness()
    box.kills_elsewhere(4)
    box.kernel_says("Memory cgroup out of memory: Killed process 12 (other)")
    assert witness.evidence().memory_ran_out is False


@pytest.mark.parametrize("groups", ["0::/\n", "4:memory:/a\n0::/\n", "4:memory:/a\n"])
def test_where_the_cgroup_says_nothing_the_whole_machine_counts(box: Box, groups: str) -> None:
    (box.proc / "self/cgroup").write_text(groups)
    witness, calm = box.witness(), box.witness()
    assert calm.evidence().memory_ran_out is False
    box.kills_elsewhere(4)
    assert witness.evidence().memory_ran_out is True


def test_without_figures_the_kernels_log_says_it(box: Box) -> None:
    (box.proc / "self/cgroup").unlink()
    (box.proc / "vmstat").unlink()
    witness, calm = box.witness(), box.witness()
    assert calm.evidence().memory_ran_out is None  # what it said before is not this job's
    box.kernel_says("Out of memory: Killed process 12 (python) total-vm:1kB")
    assert witness.evidence().memory_ran_out is True


def test_where_nothing_can_be_read_nothing_is_known(tmp_path: Path, box: Box) -> None:
    nowhere = tmp_path / "nowhere"
    witness = Witness(proc=nowhere, cgroups=nowhere, kernel_log=nowhere)
    assert witness.evidence() == Evidence()
    # Can be opened, but not read.
    assert Witness(proc=nowhere, cgroups=nowhere, kernel_log=tmp_path).evidence() == Evidence()


@pytest.mark.parametrize(
    ("xid", "trouble"),
    [("79, pid=1, GPU has fallen off the bus.", True), ("31, pid=1, MMU Fault", False)],
)
def test_the_kernel_tells_of_a_broken_gpu(box: Box, xid: str, trouble: bool) -> None:
    witness = box.witness()
    box.kernel_says(f"NVRM: Xid (PCI:0000:01:00): {xid}")
    assert ("NVRM: Xid" in str(witness.evidence().gpu_trouble)) == trouble


_FAILS = "echo 'Unable to determine the device handle for GPU0'; exit 9"


def test_a_gpu_that_stops_answering(box: Box, nvidia_smi: Callable[[str], None]) -> None:
    nvidia_smi("echo 0, a GPU, 580")
    witness = box.witness()
    assert witness.gpu_problem is None
    nvidia_smi(_FAILS)
    assert witness.evidence().gpu_trouble == "Unable to determine the device handle for GPU0"


def test_nvidia_smi_gets_no_key(
    box: Box, nvidia_smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    nvidia_smi('echo "key: $AWS_SECRET_ACCESS_KEY"; exit 9')
    assert box.witness().gpu_problem == "key:"


def test_a_driver_that_hangs(
    box: Box, nvidia_smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.evidence._PATIENCE", 0.2)
    witness = box.witness()
    nvidia_smi("exec /bin/sleep 600")
    assert "did not answer" in str(witness.evidence().gpu_trouble)


def test_what_hangs_in_the_driver_and_cannot_be_killed_is_not_waited_for(
    box: Box, nvidia_smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.evidence._PATIENCE", 0.2)
    monkeypatch.setattr(subprocess.Popen, "kill", lambda _: None)
    nvidia_smi("exec /bin/sleep 8")
    began = time.monotonic()
    assert "did not answer" in str(box.witness().gpu_problem)
    assert time.monotonic() < began + 5


def test_a_gpu_that_never_worked_here_explains_nothing(
    box: Box, nvidia_smi: Callable[[str], None]
) -> None:
    nvidia_smi(_FAILS)
    witness = box.witness()
    assert witness.gpu_problem
    assert witness.evidence().gpu_trouble is None
