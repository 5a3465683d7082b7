"""Failures cross from process to process whole."""

import pickle

from infra.failure import Cause, Failure


def test_a_failure_survives_pickling() -> None:
    failure = Failure(Cause.STORE, "The store is full.", permanent=True)
    copy = pickle.loads(pickle.dumps(failure))
    assert (copy.cause, str(copy), copy.permanent) == (Cause.STORE, "The store is full.", True)
    assert copy.exit_code == 2
