"""A run: its id, its place in the store, how long its stages took, and how it ended."""

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from infra.claims import Hold
from infra.failure import Cause, Failure
from infra.protocol import now, run_key
from infra.stores import Store
from model.errors import InputError
from pipeline.commit import commit
from pipeline.inputs import Inputs
from pipeline.parameters import Parameters, home
from pipeline.progress import Listener
from pipeline.run_record import (
    Outcome,
    RunRecord,
    StageRecord,
    Trial,
    Unchanged,
    WrittenState,
    recorded_metrics,
)

if TYPE_CHECKING:
    from model.manifest import Manifest

_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: none looks like another


def tell(listeners: Sequence[Listener], what: Callable[[Listener], None]) -> None:
    """Tell everybody. Who cannot be told, such as a terminal that was closed, must end nothing.

    Least of all the deletion of a rented machine. Where a worker that reads what we print is gone,
    Prefect's log raises SystemExit.
    """
    for listener in listeners:
        try:
            what(listener)
        except (Exception, SystemExit):
            logging.getLogger(__name__).debug("a listener failed", exc_info=True)


class Stage:
    """A stage that is running; the `with` block fills in how it went."""

    def __init__(self, name: str, listeners: Sequence[Listener]) -> None:
        self.name = name
        self.reused = False
        self.summary = ""
        self.seconds = 0.0  # once it has ended
        self._listeners = listeners

    def report(self, done: float, total: float | None, note: str = "") -> None:
        """Tell everybody how far it is."""
        tell(self._listeners, lambda listener: listener.advanced(self.name, done, total, note))

    def say(self, line: str) -> None:
        """Tell everybody something in words."""
        tell(self._listeners, lambda listener: listener.said(self.name, line))


@contextmanager
def staged(name: str, listeners: Sequence[Listener]) -> Iterator[Stage]:
    """Time a stage and tell the listeners."""
    stage = Stage(name, listeners)
    tell(listeners, lambda listener: listener.started(name))
    began = time.perf_counter()
    yield stage
    stage.seconds = time.perf_counter() - began
    tell(
        listeners,
        lambda listener: listener.finished(name, stage.seconds, stage.reused, stage.summary),
    )


class Run:
    """One execution, with an id and a prefix in the store; or one that goes on with an earlier."""

    def __init__(
        self,
        parameters: Parameters,
        listeners: Sequence[Listener],
        *,
        earlier: RunRecord | None = None,
        run_id: str | None = None,
        trials: tuple[Trial, ...] = (),
    ) -> None:
        """`run_id` is that of a sweep's trial, and `trials` are a sweep's own."""
        self.earlier = earlier
        self.trials = earlier.trials if earlier else trials
        self.parameters = parameters
        self.listeners = listeners
        self.store = Store.open(parameters.store)
        self.run_id = earlier.run_id if earlier else run_id or new_run_id()
        self.stages: list[StageRecord] = []
        self.spool = home() / "spool"
        self.job_folder = home() / "jobs" / self.run_id
        self.folder = home() / "checkpoints" / self.run_id
        self.outcome: Outcome | None = None
        self.unchanged: Unchanged | None = None
        self._dataset = earlier.dataset if earlier else None
        self.sources = earlier.sources if earlier else {}
        self.inputs = earlier.inputs if earlier else None
        self._started = earlier.started if earlier else now()
        self._commit = earlier.commit if earlier else commit()
        self._hold: Hold | None = None

    @contextmanager
    def recorded(self, *, then: WrittenState = "done") -> Iterator[None]:
        """Drive the run, and keep `run.json` true about how it stands, however it ends.

        `then` is how it stands where the block ends well: a trial that is trained is not yet done.
        Raises Failure(CLAIMED) where another controller drives it; the record is that one's then.
        """
        with Hold(self.store, self.run_id, say=self.say) as self._hold:
            yield from self._recorded(then)

    def must_hold(self) -> None:
        """Raise Failure(CLAIMED) where another controller drives the run by now."""
        if self._hold:
            self._hold.must_hold()

    def _recorded(self, then: WrittenState) -> Iterator[None]:
        self._record("running")
        tell(self.listeners, lambda listener: listener.began(self.run_id))
        try:
            yield
        except BaseException as error:
            cause, message = explained(error)
            try:
                if cause is not Cause.CLAIMED:
                    self.must_hold()  # else the record is another controller's by now
                    self._record("failed", cause, message)
            except Failure as unwritten:  # the first failure is the one to hear of
                logging.getLogger(__name__).warning("how it ended is not recorded: %s", unwritten)
            failure = f"{cause}: {message}"
            tell(self.listeners, lambda listener: listener.ended(self.run_id, failure))
            raise
        self.must_hold()
        self._record("unchanged" if self.unchanged else then)
        tell(self.listeners, lambda listener: listener.ended(self.run_id, None))

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Show a stage to the listeners, and keep a record of it."""
        with staged(name, self.listeners) as stage:
            yield stage
        self.stages.append(
            StageRecord(
                name=name, seconds=stage.seconds, reused=stage.reused, summary=stage.summary
            )
        )

    def say(self, line: str) -> None:
        """Tell everybody something that belongs to no stage."""
        tell(self.listeners, lambda listener: listener.said("run", line))

    def decided(self, said: str) -> None:
        """Tell everybody what became of its checkpoint."""
        tell(self.listeners, lambda listener: listener.decided(self.run_id, said))

    def prepared(
        self, dataset: "Manifest", sources: dict[str, str], *, kept_in: Store | None = None
    ) -> None:
        """Note the dataset, the archives in it and all else that the net will be made from.

        Whoever goes on with this run needs them, and the next run compares itself with them. So a
        net that has learned something, whose checkpoints are in the run's store or in `kept_in`,
        stays one of the code that it began with: whatever goes on with it, the next run is another.

        Raises Failure(CLAIMED) where somebody else goes on with it by now, InputError where the net
        has begun to learn from other data or by another recipe.
        """
        self.must_hold()
        inputs = Inputs.of(dataset, self.parameters.resolved_recipe())
        learned = (kept_in or self.store).folders(run_key(self.run_id, "checkpoints"))
        if not (learned and self.inputs):
            self.inputs, self._commit = inputs, commit()
        elif (inputs.dataset, inputs.recipe) != (self.inputs.dataset, self.inputs.recipe):
            changes = "; ".join(inputs.changes_since(self.inputs))
            raise InputError(
                f"Run {self.run_id} cannot go on with what it has learned: {changes}. Put back "
                "what has changed, or start a new run."
            )
        self._dataset, self.sources = dataset.key, sources
        self._record("running")

    def metrics(self) -> list[dict[str, Any]]:
        """What training logged."""
        return recorded_metrics(self.store, self.run_id)

    def _record(
        self,
        state: WrittenState,
        cause: Cause | None = None,
        message: str = "",
    ) -> None:
        record = RunRecord(
            run_id=self.run_id,
            state=state,
            started=self._started,
            ended=None if state == "running" else now(),
            parameters=self.parameters.model_dump(mode="json"),
            stages=tuple(self.stages),
            dataset=self._dataset,
            sources=self.sources,
            inputs=self.inputs,
            commit=self._commit,
            cause=cause,
            message=message,
            outcome=self.outcome,
            unchanged=self.unchanged,
            trials=self.trials,
        )
        self.store.write(run_key(self.run_id, "run.json"), record)


def new_run_id() -> str:
    """A date for people and five random letters for computers; 12 characters, sorts by day."""
    return f"{datetime.now(UTC):%y%m%d}-{letters(5)}"


def letters(count: int) -> str:
    """Random ones and digits, which tell what is made at the same time apart."""
    return "".join(secrets.choice(_LETTERS) for _ in range(count))


def explained(error: BaseException) -> tuple[Cause, str]:
    """The cause of an exception, and what to tell."""
    match error:
        case Failure():
            return error.cause, str(error)
        case InputError():
            return Cause.BAD_INPUT, str(error)
        case Exception():
            return Cause.INTERNAL, f"{type(error).__name__}: {error}"
        case _:  # KeyboardInterrupt, and what Prefect raises to cancel
            return Cause.CANCELLED, "Stopped on request."
