"""A rented machine that is rebooted goes on by itself, and nobody notices but by the log."""

from pathlib import Path

import httpx

from infra.restart import RESTART
from infra.simulator.things import Instance
from rentals import Account, Renter

# At its first start it counts without end; at the next it says how far its disk saw it count.
_COUNTING = """
import hashlib, itertools, json, pathlib, time
step = pathlib.Path("out/checkpoints/00000002")
if (step / "manifest.json").exists():
    counted = pathlib.Path("log.txt").read_text().split()
    print("goes on from", (step / "blob").read_text(), "after", len(counted), flush=True)
else:
    step.mkdir(parents=True)
    (step / "blob").write_text("2")
    (step / "manifest.json").write_text(json.dumps({"sha256": hashlib.sha256(b"2").hexdigest()}))
    for number in itertools.count():
        print(number, flush=True)
        time.sleep(0.005)
"""


def _reboot(account: Account, renter: Renter) -> None:
    (machine,) = [one for one in account.account.all(Instance) if one.label == renter.label]
    answer = httpx.post(
        f"{account.url}/linode/instances/{machine.id}/reboot",
        headers={"Authorization": f"Bearer {account.token}"},
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text


def test_the_job_goes_on_after_a_reboot_and_its_log_is_whole(
    renter: Renter, account: Account
) -> None:
    modes: list[int] = []

    def reboot() -> None:
        folder: Path = account.disk(renter.label) / "root/voc-train" / renter.run.run_id
        modes.append((folder / RESTART).stat().st_mode & 0o777)
        _reboot(account, renter)

    renter.listener.when("100", reboot)
    assert renter.rent(_COUNTING).cause is None
    *counted, end = [line for line in renter.listener.lines if line[0].isdigit() or "from" in line]
    assert counted == [str(number) for number in range(len(counted))]
    assert end == f"goes on from 2 after {len(counted)}"
    assert modes == [0o600]
    assert len(account.bill()) == 1
