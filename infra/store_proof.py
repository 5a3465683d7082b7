"""Proof that a machine reaches the store: run there, `python -m infra.store_proof <CALL`.

The input is a JSON object: the `store`, the `environment` that opens it, and the keys of what was
`asked` and of what is to be `answered`. The key of a bucket is so in no argument and in no file.
"""

import hashlib
import json
import os
import sys

from infra.failure import Cause, Failure
from infra.stores import Store


def answer_to(question: bytes) -> bytes:
    """What only who has read the question can write."""
    return hashlib.sha256(question).hexdigest().encode()


def prove(store: Store, asked: str, answered: str) -> None:
    """Read one object, write another, and read that again. Raises Failure."""
    question = store.get(asked)
    if question is None:
        raise Failure(Cause.STORE, f"{store.url} does not show here what was written to it.")
    answer = answer_to(question)
    store.put(answered, answer)
    if store.get(answered) != answer:
        raise Failure(Cause.CORRUPT, "What was written came back as something else.")


def main() -> int:
    """1 with a reason on standard error where something does not work."""
    call = json.load(sys.stdin)
    os.environ.update(call["environment"])
    try:
        prove(Store.open(call["store"]), call["asked"], call["answered"])
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
