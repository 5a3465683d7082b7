"""Messages to people reach a real receiver, or harm nobody."""

import logging
import subprocess
from collections.abc import Callable, Iterator

import pytest

from agents import PATIENCE, log_of, put_spec, until
from infra import notifications
from infra.clock import Clock
from infra.doctor import Finding, examine
from infra.failure import Cause, Failure
from infra.notifications import VARIABLE, deliver, notify
from infra.stores import Store
from servers.receiver import CANARY, Receiver

NOBODY = f"json://127.0.0.1:1/{CANARY}"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Receiver() as receiver:
        monkeypatch.setenv(VARIABLE, receiver.url)
        yield receiver


def test_a_message_arrives_as_it_was_written(receiver: Receiver) -> None:
    notify("run 1 is done", "cost <b> $0.52\nreport /a/b", urgent=True)
    (message,) = receiver.messages
    assert message["title"] == "run 1 is done"
    assert message["message"] == "cost <b> $0.52\nreport /a/b"
    assert message["type"] == "failure"
    notify("run 2 is done", "")  # which some services refuse
    assert receiver.messages[1]["type"] == "info"


@pytest.mark.parametrize("between", [" ", ",", ", "])
def test_each_of_several_gets_it_though_another_does_not_answer(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    monkeypatch.setenv(VARIABLE, between.join([NOBODY, receiver.url, f"bogus://{CANARY}"]))
    delivery = deliver("title", "text")
    assert receiver.titles == ["title"]
    assert (delivery.failed, delivery.took) == (("JSON (URL 1 of 3)",), ("JSON (URL 2 of 3)",))
    assert delivery.said == (
        "JSON (URL 1 of 3) did not take the message; URL 3 of 3 is none of Apprise's"
    )


@pytest.mark.parametrize("wrong", ["refuses", "is mute", "is away", "is none"])
def test_one_that_fails_is_a_line_in_the_log_without_its_url(
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    wrong: str,
) -> None:
    receiver.status, receiver.mute = 500, wrong == "is mute"
    if wrong == "is away":
        monkeypatch.setenv(VARIABLE, NOBODY)
    elif wrong == "is none":
        monkeypatch.setenv(VARIABLE, f"bogus://{CANARY}")
    monkeypatch.setattr(notifications, "_SECONDS", 2.0 if wrong == "is mute" else 15.0)
    with caplog.at_level(logging.DEBUG):
        notify("run 1 is done", "text")
    (record,) = caplog.records
    assert "nobody may have heard 'run 1 is done'" in record.getMessage()
    assert record.levelno == logging.WARNING
    assert ("no answer came within 2 s" in record.getMessage()) == (wrong == "is mute")
    shown = capfd.readouterr()
    assert CANARY not in caplog.text + shown.out + shown.err


def test_where_nobody_wants_to_know_nothing_is_begun(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifications.sys, "executable", "/none")
    for value in ("", " "):
        monkeypatch.setenv(VARIABLE, value)
        notify("title", "text")
    assert not caplog.records
    monkeypatch.setenv(VARIABLE, NOBODY)
    notify("title", "text")
    assert "FileNotFoundError" in caplog.text


def test_a_job_does_not_see_the_urls(
    store: Store, start: Callable[..., subprocess.Popen[bytes]], receiver: Receiver
) -> None:
    put_spec(store, f"import os; print('it is', os.environ.get({VARIABLE!r}), flush=True)")
    assert start().wait(PATIENCE) == 0
    until(lambda: log_of(store))
    assert log_of(store).decode().strip() == "it is None"


def _finding(store: Store) -> Finding:
    missing = Failure(Cause.PROVIDER, "There is no token.")
    parts = {"provider": missing, "store": missing, "home": store.local_path("")}
    found = examine(**parts, clock=Clock(), api_url="http://127.0.0.1:1")  # type: ignore[arg-type]
    return next(one for one in found if one.name == "messages")


def test_the_doctor_says_who_would_be_told_and_tells_nobody(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _finding(store)
    assert found.ok
    assert found.said.startswith("JSON would be told")
    assert receiver.messages == []
    monkeypatch.setenv(VARIABLE, f"bogus://{CANARY}")
    found = _finding(store)
    assert found.ok is False
    assert CANARY not in str(found)
    monkeypatch.delenv(VARIABLE)
    assert _finding(store).ok is None
