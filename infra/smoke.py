"""The smallest rental that proves the whole way: create, boot, set up, log in, reach the store.

What it creates is the rental's to delete.
"""

import json
import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.failure import Cause, Failure
from infra.handover import install, run_folder
from infra.protocol import run_key
from infra.provider import Offer
from infra.rental import Rental
from infra.rented import PYTHON, Rented
from infra.renting import Wanted, mint_key, open_firewall, rent
from infra.ssh import CommandFailed
from infra.stackscripts import requirements
from infra.store_proof import answer_to
from infra.stores import Store
from infra.wheel import build_wheel

HOURS = 2  # billed at the most
_SECONDS = 120.0  # real ones, for a few requests and their repetitions
_PROOF = "infra.store_proof"
_NEEDS = ("obstore", "pydantic")  # of which the proof is made
_SERVER = ("AWS_ENDPOINT_URL", "AWS_REGION")  # not secret
_AUTHORITY = "AWS_CA_BUNDLE"


def smoke(
    rental: Rental,
    store: Store,
    offers: Sequence[Offer],
    *,
    budget: float,
    ssh_from: tuple[str, ...],
    bucket: str | None,
    endpoint: str,
) -> None:
    """Rent one of the offers, and have it read and write the store with a key of its own.

    `bucket` is None for a store that is a folder which the machine sees. Raises the Failure of the
    step that did not work; the rental's `tear_down` is the caller's, whatever happens here.
    """
    environment: dict[str, str] = {}
    if bucket:
        key = mint_key(rental, bucket, endpoint, HOURS)
        environment = {name: os.environ[name] for name in _SERVER if os.environ.get(name)}
        environment |= {
            "AWS_ACCESS_KEY_ID": key.access_key,
            "AWS_SECRET_ACCESS_KEY": key.secret_key,
        }
    wanted = Wanted(
        offers=tuple(offers),
        budget=budget,
        hours=HOURS,
        script="cpu_preparer",
        requirements=requirements(_NEEDS),
        part="s",
    )
    rented = rent(rental, wanted, open_firewall(rental, ssh_from, HOURS))
    _ask_for_proof(rented, rental.run_id, store, environment)
    rental.reached("proven", f"the machine reads and writes {store.url}")


def _ask_for_proof(
    rented: Rented, run_id: str, store: Store, environment: Mapping[str, str]
) -> None:
    asked, answered = (run_key(run_id, "smoke", name) for name in ("asked", "answered"))
    question = secrets.token_bytes(32)
    store.put(asked, question)
    call = {"store": store.url, "asked": asked, "answered": answered}
    opened_by = dict(environment)
    with rented.connect() as connection:
        if authority := os.environ.get(_AUTHORITY) if environment else None:
            opened_by[_AUTHORITY] = f"{run_folder(connection, run_id)}/ca.pem"
            connection.put(Path(authority), opened_by[_AUTHORITY])
        code = install(connection, PYTHON, build_wheel((_PROOF,)))
        try:
            connection.run(
                f"env PYTHONPATH={shlex.quote(code)} {PYTHON} -m {_PROOF}",
                json.dumps(call | {"environment": opened_by}).encode(),
                timeout=_SECONDS,
            )
        except CommandFailed as failure:
            said = failure.said.strip()[-500:]
            raise Failure(
                Cause.STORE, f"The machine cannot use {store.url} ({said}).", permanent=True
            ) from failure
    if store.get(answered) != answer_to(question):
        raise Failure(Cause.CORRUPT, f"{store.url} does not show what the machine wrote to it.")
    for key in (asked, answered):
        store.delete(key)
