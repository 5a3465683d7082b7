"""Whoever listens to a run must not be able to end it."""

import pytest

from pipeline.run import staged


class _Closed:
    """A terminal that was closed, or a pipe that Prefect's log cannot write to any more."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __getattr__(self, name: str) -> object:
        raise self._error


class _Heard:
    def __init__(self) -> None:
        self.events: list[str] = []

    def started(self, stage: str) -> None:
        self.events.append(f"started {stage}")

    def said(self, stage: str, line: str) -> None:
        self.events.append(line)

    def advanced(self, stage: str, done: float, total: float | None, note: str) -> None:
        self.events.append(f"{done} of {total}")

    def finished(self, stage: str, seconds: float, reused: bool, summary: str) -> None:
        self.events.append(f"finished {stage}: {summary}")

    def began(self, run_id: str) -> None: ...
    def decided(self, run_id: str, said: str) -> None: ...
    def ended(self, run_id: str, failure: str | None) -> None: ...


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), SystemExit(1)])
def test_one_that_cannot_be_told_keeps_nobody_else_from_hearing(error: BaseException) -> None:
    heard = _Heard()
    with staged("tear-down", [_Closed(error), heard]) as stage:  # type: ignore[list-item]
        stage.say("deleting")
        stage.report(1, 2)
        stage.summary = "gone"
    assert heard.events == ["started tear-down", "deleting", "1 of 2", "finished tear-down: gone"]


def test_an_interrupt_is_no_such_failure() -> None:
    class Impatient(_Heard):
        def said(self, stage: str, line: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), staged("train", [Impatient()]) as stage:
        stage.say("a line")
