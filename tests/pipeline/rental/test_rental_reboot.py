"""A rented machine that is rebooted goes on by itself, in the time that was left."""

import json

import httpx
import pytest

from infra.failure import Cause
from infra.restart import RESTART
from infra.simulator.things import Instance
from rentals import Account, Renter, fails

# At its first start it says so and works on; at the next it goes on from its checkpoint.
_LONG = """
import hashlib, json, os, pathlib, time
step = pathlib.Path("out/checkpoints/00000002")
if (step / "manifest.json").exists():
    print("goes on from", (step / "blob").read_text(), flush=True)
    {after}
else:
    step.mkdir(parents=True)
    (step / "blob").write_text("2")
    (step / "manifest.json").write_text(json.dumps({{"sha256": hashlib.sha256(b"2").hexdigest()}}))
    print("at two", flush=True)
    while True:
        time.sleep(0.01)
        print("more", flush=True)
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
    orders: list[bool] = []

    def order() -> bool:
        return (account.disk(renter.label) / "root/voc-train" / renter.run.run_id / RESTART).exists()

    def reboot() -> None:
        orders.append(order())
        _reboot(account, renter)

    renter.listener.when("at two", reboot)
    assert renter.rent(_LONG.format(after="pass")).cause is None
    lines = renter.listener.lines
    assert lines.count("at two") == lines.count("goes on from 2") == 1
    job = lines[lines.index("at two") : lines.index("goes on from 2")]
    assert set(job) == {"at two", "more"}
    assert orders == [True]
    assert len(account.bill()) == 1


