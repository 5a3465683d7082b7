"""Where a run trains: this computer, a host of one's own, or a machine rented for it.

A rented one is torn down on the way out, whatever happened inside, and proven gone.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar, assert_never

from infra.failure import Failure
from infra.machines import LocalMachine, Machine
from infra.provider import Endpoint
from infra.remote import RemoteMachine
from infra.ssh import CommandFailed, Connection
from model.errors import InputError
from model.manifest import Manifest
from pipeline.download.local import must_be_here
from pipeline.parameters import Parameters
from pipeline.plan import make_plan
from pipeline.run import Run
from pipeline.tenancy import KEY, Workplace, secrets_for, tenancy

T = TypeVar("T")
# What the agent and the trainer import on a host that we did not set up.
_TRIAL = (
    "import cv2, filelock, obstore, pydantic, torch, torchvision, wandb; "
    'from importlib.metadata import version; version("opencv-python-headless")'
)


@contextmanager
def workplaces(run: Run, dataset: Manifest) -> Iterator[Iterable[Workplace]]:
    """Where a run trains: a place, and others to go on where it is lost.

    What was rented is gone when the block is left.
    """
    seconds = run.parameters.limits.train_hours * 3600
    match run.parameters.machine:
        case "local":
            yield [Workplace(LocalMachine(run.job_folder), run.store, seconds)]
        case "ssh":
            yield [Workplace(_own_host(run), run.store, seconds)]
        case "linode":
            with tenancy(run) as tenant:
                yield tenant.trainers(dataset)
                tenant.rental.reached("verified", "the checkpoint is home")
                if tenant.plan.terms.keep and tenant.trainer:
                    tenant.keep(tenant.trainer)
        case other:
            assert_never(other)


def first_that_lasts(places: Iterable[Workplace], work: Callable[[Workplace], T]) -> T:
    """What comes of `work` at the first place that is not lost meanwhile.

    Each goes on from what the one before left in the store. Raises what a place is not to blame
    for, and, where there is no other, the Failure of the last.
    """
    lost: Failure | None = None
    for place in places:
        try:
            return work(place)
        except Failure as failure:
            if not failure.of_the_machine:
                raise
            lost = failure
    assert lost
    raise lost


@contextmanager
def preparing_place(run: Run) -> Iterator[Workplace]:
    """A machine rented to build the dataset; it is gone when the block is left."""
    with tenancy(run) as tenant:
        with run.stage("rent-preparer") as stage:
            rented = tenant.rent_preparer(stage, hours=tenant.plan.hours)
        yield tenant.prepares_on(rented, tenant.preparer(rented), run.store)


def must_be_available(run: Run) -> None:
    """Refuse what cannot work, before an hour of preparation and before anything is created."""
    parameters, store = run.parameters, run.store
    match parameters.machine:
        case "local":
            if parameters.device not in ("auto", "cpu"):  # the import takes seconds
                from model.device import pick_device

                pick_device(parameters.device)
        case "ssh":
            endpoint = _endpoint(parameters)
            if not store.url.startswith("s3://"):
                raise InputError(
                    f"A host that is reached by SSH cannot see {store.url}: give a bucket, "
                    "--store s3://BUCKET/PREFIX."
                )
            _must_have_packages(endpoint, parameters.ssh_python)
        case "linode":
            if not (run.earlier and run.earlier.dataset):
                must_be_here(parameters.archives)  # sooner than a machine is
            hours, goes_on = parameters.limits.train_hours, run.earlier is not None
            make_plan(parameters.rental, hours, store, goes_on=goes_on)
        case other:
            assert_never(other)


def _must_have_packages(endpoint: Endpoint, python: str) -> None:
    with Connection(endpoint) as connection:
        try:
            connection.run(f"{shlex.quote(python)} -c '{_TRIAL}'", timeout=120)
        except CommandFailed as failure:
            why = failure.said.strip()[-200:]
            raise InputError(
                f"{python} on {endpoint.host} cannot run the training ({why}); name another one "
                "with --python, or install there what the README says."
            ) from None


def _own_host(run: Run) -> Machine:
    endpoint = _endpoint(run.parameters)
    return RemoteMachine(
        lambda: Connection(endpoint),
        python=run.parameters.ssh_python,
        store_url=None,
        secrets=secrets_for(run, {name: os.environ[name] for name in KEY}),
        where=endpoint.host,
        run_id=run.run_id if run.earlier else None,
    )


def _endpoint(parameters: Parameters) -> Endpoint:
    match = re.fullmatch(
        r"(?:([\w.-]+)@)?([\w.-]+|\[[\da-fA-F:]+\])(?::(\d{1,5}))?", parameters.ssh_host or ""
    )
    if not match:
        raise InputError("Name the host: USER@HOST, or USER@HOST:PORT.")
    user, host, port = match.groups()
    return Endpoint(host.strip("[]"), int(port or 22), user or os.environ.get("USER", "root"))
