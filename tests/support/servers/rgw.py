"""A real S3 server for tests: Ceph's RADOS gateway over TLS, one node on loopback, no systemd.

Linode Object Storage is the same software, so what holds here holds there. A monitor, one
in-memory OSD and the gateway run as children of the test process, with all they write in one
folder; they start in two seconds or so.
"""

import secrets
import shutil
import socket
import ssl
import subprocess
import time
import uuid
from collections.abc import Callable
from http.client import HTTPSConnection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import boto3
from botocore.config import Config

from servers.certificates import issue
from servers.requirements import require

if TYPE_CHECKING:
    from infra.simulator.object_storage import RadosGateway

_PACKAGES = "ceph-mon ceph-osd radosgw ceph-common"
_PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "ceph", "radosgw-admin", "monmaptool")
_START_SECONDS = 60.0
_REGION = "us-east-1"

# Ceph's own authentication is off (S3's is not), and so is its encrypted messenger: with "none"
# and any mode but crc, radosgw waits for its monitor for ever and says nothing. The Paxos times
# keep each of the dozen changes at start-up from waiting a second for company. tcp_nodelay saves
# 45 ms a request.
_CONFIG = """
[global]
fsid = {fsid}
mon host = {monitor}
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms client mode = crc
ms cluster mode = crc
ms service mode = crc
log file = {folder}/$name.log
run dir = {folder}
admin socket =
paxos propose interval = 0.01
paxos min wait = 0.01
mon data = {folder}/mon
mon data avail warn = 2
mon data avail crit = 1
mon allow pool size one = true
mon max pg per osd = 1000
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 8589934592
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
[client.rgw]
rgw data = {folder}
rgw frontends = beast ssl_endpoint=127.0.0.1:{port} tcp_nodelay=1 \
ssl_certificate={certificate} ssl_private_key={key}
rgw enable apis = s3, admin
rgw run sync thread = false
"""


class RGW:
    """A gateway that runs between `with RGW(folder) as rgw` and the end of the block.

    endpoint: https URL. ca_bundle: PEM file of the one CA that its certificate comes from.
    Leaving ends the processes and removes the folder. RuntimeError, with the ends of Ceph's logs,
    where it does not start.
    """

    def __init__(self, folder: Path) -> None:
        self._programs = {name: require(name, _PACKAGES) for name in _PROGRAMS}
        self._setpriv = require("setpriv", "util-linux")
        self._folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.access_key = "rgw-access"
        self.secret_key = secrets.token_urlsafe(30)
        self.ca_bundle, self._certificate, self._key = issue(folder)
        self._port, self._monitor_port = _free_ports(2)
        self.endpoint = f"https://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        try:
            self._start(time.monotonic() + _START_SECONDS)
        except Exception as error:
            logs = self._log_tails()
            self._stop()
            raise RuntimeError(f"Ceph RGW did not start: {error}\n{logs}") from error
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def environment(self) -> dict[str, str]:
        """What an S3 client needs, under the names that AWS gave them."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": _REGION,
            "AWS_CA_BUNDLE": str(self.ca_bundle),
        }

    def create_bucket(self, name: str) -> str:
        """Make an empty bucket; returns its name."""
        self.client().create_bucket(Bucket=name)
        return name

    def client(self, access_key: str = "", secret_key: str = "") -> Any:
        """boto3's own client, with the key that owns everything unless another one is named."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=_REGION,
            verify=str(self.ca_bundle),
            aws_access_key_id=access_key or self.access_key,
            aws_secret_access_key=secret_key or self.secret_key,
            config=Config(request_checksum_calculation="when_required"),
        )

    def gateway(self) -> "RadosGateway":
        """This server as a simulated account uses it, to make keys and buckets."""
        # Only here: every test's conftest imports this module, and few of them a simulator.
        from infra.simulator.object_storage import RadosGateway

        return RadosGateway(self.endpoint, self.access_key, self.secret_key, str(self.ca_bundle))

    def _start(self, deadline: float) -> None:
        cluster, disk = str(uuid.uuid4()), str(uuid.uuid4())
        monitor = f"[v2:127.0.0.1:{self._monitor_port}]"
        config, monmap = self._folder / "ceph.conf", self._folder / "monmap"
        config.write_text(
            _CONFIG.format(
                folder=self._folder,
                fsid=cluster,
                monitor=monitor,
                port=self._port,
                certificate=self._certificate,
                key=self._key,
            )
        )
        (self._folder / "mon").mkdir()
        conf = ("-c", str(config))
        gateway = (*conf, "-n", "client.rgw")

        self._run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", monitor, str(monmap))
        self._run("ceph-mon", *conf, "-i", "a", "--mkfs", "--monmap", str(monmap))
        self._daemon("ceph-mon", *conf, "-i", "a")
        (self._folder / "osd").mkdir()
        self._run("ceph", *conf, "osd", "new", disk)
        self._run("ceph-osd", *conf, "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._daemon("ceph-osd", *conf, "-i", "0")
        self._wait_until(lambda: "1 up" in self._run("ceph", *conf, "osd", "stat"), deadline)
        self._daemon("radosgw", *gateway)
        self._run("radosgw-admin", *gateway, "user", "create", "--uid=test", "--display-name=test",
                  f"--access-key={self.access_key}", f"--secret-key={self.secret_key}",
                  "--caps=users=*")  # fmt: skip
        self._wait_until(self._answers, deadline)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._programs[program], *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} exited {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _daemon(self, program: str, *arguments: str) -> None:
        # In the foreground, so that it stays our child; and the kernel ends it when we are killed.
        command = [self._setpriv, "--pdeathsig", "KILL", self._programs[program], *arguments, "-f"]
        with (self._folder / f"{program}.out.log").open("wb") as output:
            self._daemons.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
                )
            )

    def _answers(self) -> bool:
        trust = ssl.create_default_context(cafile=str(self.ca_bundle))
        connection = HTTPSConnection("127.0.0.1", self._port, timeout=5, context=trust)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except ConnectionError:
            return False
        finally:
            connection.close()
        return True

    def _wait_until(self, ready: Callable[[], bool], deadline: float) -> None:
        while not ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"not ready within {_START_SECONDS:.0f} s")
            for daemon in self._daemons:
                if daemon.poll() is not None:
                    raise RuntimeError(f"{daemon.args!r} exited {daemon.returncode}")
            time.sleep(0.1)

    def _stop(self) -> None:
        # Nothing in it is worth an orderly end: the data goes with the folder.
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()
        self._daemons.clear()
        shutil.rmtree(self._folder)

    def _log_tails(self) -> str:
        return "\n".join(
            "\n".join([f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-15:]])
            for log in sorted(self._folder.glob("*.log"))
        )


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all held while choosing, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
