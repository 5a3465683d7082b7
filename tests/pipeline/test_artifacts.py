"""What Prefect is told, and that nothing depends on its hearing it."""

import logging

import httpx
import pytest

from pipeline import artifacts


def test_a_server_that_is_away_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def away(**values: object) -> None:
        asked.append(str(values["key"]))
        raise httpx.ConnectError("Connection refused")

    for kind in ("progress", "image"):
        monkeypatch.setattr(artifacts, f"create_{kind}_artifact", away)
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: logging.getLogger("test"))
    listener = artifacts.PrefectListener()
    listener.started("train")
    for step in range(100):
        listener.advanced("train", step, 100, "")
    listener.finished("train", 1.0, False, "")
    artifacts.show_samples(b"png")
    assert asked == ["voc-train-train", "voc-train-samples"], "asked once, and then left in peace"
