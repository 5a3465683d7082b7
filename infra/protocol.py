"""What controller and agent say to each other, all of it through objects in the store.

    runs/<run>/spec.json          the job, written by the controller before anything starts
    runs/<run>/heartbeat.json     the agent is alive, and how far the job is
    runs/<run>/log/<offset>.txt   the job's output, immutable pieces named by their first byte
    runs/<run>/…                  what the job left in `out/`: checkpoints, metrics.jsonl, samples
    runs/<run>/result.json        how it ended; the agent's last object
    runs/<run>/run.json           how the whole run stands, and report.html; the controller's own
    runs/<run>/intents/           what was rented (infra/intents.py), and receipt.json, what it cost
    runs/<run>/claims/            who drives the run (infra/claims.py)
    champions/<number>-<run>-<letters>.json  what was decided (pipeline/champion.py); immutable

The job itself knows none of this. It finds its inputs in its folder and writes to `out/` there, by
rename or append: `progress.json` (how far it is), `failure.json` (cause and message), and
`checkpoints/<step>/` (a blob, and a manifest with the blob's sha256).
"""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from infra.failure import Cause


def now() -> datetime:
    """The time as everything in the store writes it: UTC."""
    return datetime.now(UTC)


class Input(BaseModel):
    """An object that the job needs as a file, by its path inside the job's folder."""

    model_config = ConfigDict(frozen=True)

    key: str
    path: str
    size: int
    sha256: str


class OnDemand(BaseModel):
    """Inputs that are too large to lie on the disk together, in folders of their own.

    The job names those that it needs now and next in the file `wanted`, in its folder: their paths,
    one a line, what is needed first at the top. It writes the file by rename.
    """

    model_config = ConfigDict(frozen=True)

    inputs: tuple[Input, ...] = ()
    room: int = 0  # bytes of them on the disk at most


class JobSpec(BaseModel):
    """A job for an agent: any argv, run in a folder that holds its inputs."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    argv: tuple[str, ...]  # a first word `python` means the agent's own interpreter
    inputs: tuple[Input, ...] = ()
    on_demand: OnDemand = OnDemand()
    files: dict[str, str] = {}  # small text files to write beside the inputs
    deadline_seconds: float  # the agent stops the job after this long, reboots included
    ordered: datetime = Field(default_factory=now)  # tells an order from its repetition
    uses_store: bool = False  # whether the job gets the agent's keys, and VOC_TRAIN_STORE


AgentState = Literal["preparing", "running", "finishing"]


class Heartbeat(BaseModel):
    """A sign of life; `progress` is the job's own `progress.json`."""

    time: datetime
    state: AgentState
    progress: dict[str, Any] = {}


class Result(BaseModel):
    """How a job ended. `cause` is None exactly when the job did all it had to."""

    model_config = ConfigDict(frozen=True)

    exit_code: int | None
    cause: Cause | None
    message: str
    started: datetime
    ended: datetime


def run_key(run_id: str, *parts: str) -> str:
    """The key of something that belongs to a run."""
    return "/".join(("runs", run_id, *parts))


def checkpoint_key(run_id: str, step: int, *parts: str) -> str:
    """The key of a checkpoint's folder, or of something in it; a step is one of the optimiser's."""
    return run_key(run_id, "checkpoints", f"{step:08d}", *parts)
