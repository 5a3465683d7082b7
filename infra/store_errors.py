"""What a store's libraries raise, as one sentence with a cure."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from obstore.exceptions import BaseError

from infra.failure import Cause, Failure

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def explained(url: str, key: str) -> Iterator[None]:
    """Turn an error about that object, or the whole store without one, into Failure(STORE)."""
    try:
        yield
    except (OSError, BaseError) as error:
        _explain(url, key, error)


def _explain(url: str, key: str, error: Exception) -> NoReturn:
    # obstore's messages carry a Rust debug dump after the first paragraph, and may repeat headers.
    said = str(error).split("\n\nDebug source")[0].strip()
    where = f"{url}/{key}" if key else url
    number = getattr(error, "errno", None)
    permanent = True
    if number in FULL or re.search(
        r"No space left|quota exceeded|File too large|QuotaExceeded", said, re.IGNORECASE
    ):
        cure = f"The store is full: {where} could not be written. Free some space or use another."
    elif number in (errno.EACCES, errno.EPERM, errno.EROFS) or re.search(
        r"Permission denied|Read-only file system|AccessDenied|Forbidden|\b403\b|\b401\b"
        r"|InvalidAccessKeyId|SignatureDoesNotMatch|not permitted",
        said,
    ):
        cure = (
            f"No permission for {where}: check the folder's rights, or the key in "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY and what it may do."
        )
    elif "NoSuchBucket" in said:
        cure = f"The bucket of {url} does not exist; create it first, or check the name."
    else:
        first = said.splitlines()[0][:300] if said else type(error).__name__
        cure = f"The store {where} does not answer as it should: {first}"
        permanent = False
    raise Failure(Cause.STORE, cure, permanent=permanent) from error
