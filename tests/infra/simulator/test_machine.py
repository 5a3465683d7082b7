"""A simulated machine boots, is reached by SSH, keeps to itself, and leaves nothing behind."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import paramiko
import psutil
import pytest

from sandbox import REPOSITORY, Box, eventually, require_sandbox


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    require_sandbox()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    shared = tmp_path / "shared"
    shared.mkdir()
    box = Box(tmp_path / "box", shares=[shared])
    yield box
    box.machine.destroy()


def _client(box: Box) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(
        box.address,
        box.port,
        psutil.Process().username(),
        key_filename=str(box.key),
        allow_agent=False,
        look_for_keys=False,
    )
    return client


def _running(word: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(word in argument for argument in process.info["cmdline"] or ())
    ]


def test_root_logs_in_by_the_ssh_program(box: Box) -> None:
    box.boot()
    said = box.ssh('id -u; hostname; pwd; echo "$HOME"; echo "two  words"; exit 7')
    assert said.stdout == "0\nbox\n/root\n/root\ntwo  words\n"
    assert said.returncode == 7


def test_paramiko_runs_commands_and_moves_files(box: Box, tmp_path: Path) -> None:
    box.boot()
    content = os.urandom(300_000)
    with _client(box) as client:
        with client.open_sftp() as sftp:
            with sftp.open("/root/data", "wb") as file:
                file.write(content)
            assert (box.folder / "root/data").read_bytes() == content
            sftp.get("/root/data", str(tmp_path / "back"))
        _, out, _ = client.exec_command("wc -c < /root/data")
        assert out.read().strip() == b"300000"
        assert out.channel.recv_exit_status() == 0
    assert (tmp_path / "back").read_bytes() == content


def test_a_stranger_is_not_let_in(box: Box, tmp_path: Path) -> None:
    box.boot()
    stranger = Box(tmp_path / "stranger")
    box.key = stranger.key
    assert "Permission denied" in box.ssh("true").stderr
    stranger.machine.destroy()


def test_who_is_not_admitted_gets_no_answer(box: Box) -> None:
    asked: list[str] = []
    admitted = [False]

    def admits(client: str) -> bool:
        asked.append(client)
        return admitted[0]

    box.machine.admits = admits
    box.boot()
    refused = box.ssh("true", "ConnectTimeout=1")
    assert refused.returncode == 255
    assert "imed out" in refused.stderr
    admitted[0] = True
    assert box.ssh("true").returncode == 0
    assert set(asked) == {"127.0.0.1"}


def test_a_frozen_machine_goes_on_where_it_stood(box: Box) -> None:
    box.boot()
    with _client(box) as client:
        stdin, out, _ = client.exec_command("cat")
        stdin.write("a\n")
        stdin.flush()
        assert out.readline() == "a\n"
        box.machine.freeze()
        stdin.write("b\n")
        stdin.flush()
        assert "imed out" in box.ssh("true", "ConnectTimeout=1").stderr
        assert not out.channel.recv_ready()
        box.machine.thaw()
        assert out.readline() == "b\n"


def test_what_was_detached_dies_with_the_machine(box: Box) -> None:
    box.boot()
    seconds = f"1000.{os.getpid()}"
    started = box.ssh(f"setsid nohup sleep {seconds} </dev/null >/dev/null 2>&1 & echo started")
    assert started.stdout == "started\n"
    with _client(box) as client:
        client.exec_command(f"sleep {seconds}")
        eventually(lambda: len(_running(seconds)) >= 2)
        box.machine.destroy()
        assert not _running(seconds)
    assert not _running(str(box.folder))
    assert not box.folder.exists()


def test_after_a_shutdown_its_disk_is_as_it_was(box: Box) -> None:
    box.boot(script="#!/bin/bash\necho run >>/root/runs\n")
    eventually((box.folder / "root/runs").exists)
    assert box.ssh("echo kept >/opt/note; echo lost >/run/note").returncode == 0
    box.machine.shut_down()
    assert not box.machine.running
    assert "refused" in box.ssh("true").stderr
    box.boot()
    assert box.ssh("cat /opt/note /root/runs; ls /run").stdout == "kept\nrun\n"


def test_a_script_gets_its_fields_and_the_console_its_output(box: Box) -> None:
    script = '#!/bin/bash\necho "$LINODE_ID $REQUIREMENTS $0 $USER"\n'
    box.boot(script=script, environment={"LINODE_ID": "7", "REQUIREMENTS": "a==1 b==2"})
    expected = "7 a==1 b==2 /root/StackScript root"
    eventually(lambda: expected in box.machine.console.read_text())


def test_nothing_outside_can_be_seen_or_written(box: Box, tmp_path: Path) -> None:
    """Every way out is tried by root in there: paths, mounts, processes, the kernel's settings."""
    secret = tmp_path / "secret"
    secret.write_text("private")
    box.boot()
    attempts = [
        f"cat {secret}",
        f"ls {REPOSITORY}/infra",
        f"touch {tmp_path}/new && false",  # a folder of its own of that name, if any
        "touch /usr/new",
        "touch /usr/local/sbin/new",
        "mount -o remount,rw /usr",
        "mount -o remount,bind,rw /usr",
        "umount /usr",
        "umount --lazy /proc/sys",
        "echo 1 > /proc/sys/kernel/panic",
        "chmod 777 /dev/null",
        "mknod /tmp/disk b 8 0",
        f"kill -0 {os.getpid()}",
        f"ls /proc/{os.getpid()}/root/",
        f"touch {sys.prefix}/new",
    ]
    tries = [f"({attempt}) 2>/dev/null && echo '{attempt}';" for attempt in attempts]
    assert box.ssh(" ".join([*tries, "echo all tried"])).stdout == "all tried\n"
    assert not (tmp_path / "new").exists()


def test_only_the_machines_folder_and_its_shares_are_writable(box: Box, tmp_path: Path) -> None:
    box.boot()
    mounts = box.ssh("cat /proc/self/mountinfo").stdout.splitlines()
    assert len(mounts) > 10
    for fields in (mount.split() for mount in mounts):
        source, point, options = fields[3:6]
        kind = fields[fields.index("-") + 1]
        of_memory = kind in ("tmpfs", "proc", "devpts") and source == "/"
        own = str(box.folder) in source or source.endswith(str(tmp_path / "shared"))
        assert "ro" in options.split(",") or of_memory or own, f"{point} can be written"


def test_a_share_is_seen_at_its_own_path(box: Box, tmp_path: Path) -> None:
    box.boot()
    assert box.ssh(f"echo hello >{tmp_path}/shared/note").returncode == 0
    assert (tmp_path / "shared/note").read_text() == "hello\n"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user is who runs all of these tests")
def test_an_ordinary_user_has_the_same_machine(open_folder: Path) -> None:
    """Root becomes somebody who has a shell, in a view of the system that knows that user."""
    python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    if not Path(python).exists():
        pytest.skip(f"{python}, which every user may run, is not there")
    open_folder.chmod(0o777)
    users = open_folder / "passwd"
    users.write_text(Path("/etc/passwd").read_text() + "somebody:x:4711:4711::/:/bin/sh\n")
    program = open_folder / "program.py"
    program.write_text(
        "import sys\nfrom pathlib import Path\nfrom sandbox import Box\n"
        "box = Box(Path(sys.argv[1]))\nbox.boot()\n"
        "print(box.ssh('id -u; touch /root/a && echo own; touch /usr/a || echo not').stdout)\n"
        "box.machine.destroy()\nprint(box.folder.exists())\n"
    )
    packages = [path for path in sys.path if path.endswith("site-packages")]
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests/support"), *packages])
    become = ["setpriv", "--reuid", "4711", "--regid", "4711", "--clear-groups"]
    become += ["env", f"PYTHONPATH={path}", "HOME=/", "PYTHONDONTWRITEBYTECODE=1"]
    view = ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" /etc/passwd; shift; exec "$@"']
    said = subprocess.run(
        [*view, "-", str(users), *become, python, str(program), str(open_folder / "box")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=open_folder,
    )
    assert said.stdout.split() == ["0", "own", "not", "False"], said.stderr


def test_a_killed_simulator_leaves_no_process(tmp_path: Path) -> None:
    """Not even one that somebody is connected to, nor one that does not answer."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom sandbox import Box\n"
        "box = Box(Path(sys.argv[1]))\n"
        "box.boot(script='#!/bin/sh\\nsetsid sleep 1000 &\\nsleep 1000\\n')\n"
        "print(box.address, box.port, flush=True)\nsys.stdin.read()\n"
    )
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests/support")])
    simulator = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "box")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert simulator.stdin
    assert simulator.stdout
    with simulator.stdin, simulator.stdout:
        address, port = simulator.stdout.readline().decode().split()
        with paramiko.Transport((address, int(port))) as transport:
            transport.start_client()  # the keys are exchanged, and nobody logs in
            family = psutil.Process(simulator.pid).children(recursive=True)
            eventually(lambda: len(psutil.Process(simulator.pid).children(recursive=True)) >= 5)
            family = psutil.Process(simulator.pid).children(recursive=True)
            simulator.kill()
            simulator.wait()
            eventually(lambda: not any(process.is_running() for process in family))
