"""Whether what was read is what was written: JSON bears a seal, files are known by their sha256."""

import hashlib
import re
from pathlib import Path

_SEAL = re.compile(rb',\n "seal": "([^"]*)"\n}$')


def sealed(key: str, data: bytes) -> bytes:
    """A JSON object of one member and more, with a last one: the sha256 of its key and the rest."""
    digest = hashlib.sha256(key.encode() + data).hexdigest()
    return data.removesuffix(b"\n}") + b',\n "seal": "' + digest.encode() + b'"\n}'


def unsealed(key: str, data: bytes) -> bytes:
    """What was sealed, or was without a seal: not every writer has one.

    Raises ValueError where it is not what was written under this key.
    """
    match = _SEAL.search(data)
    if match is None:
        return data
    whole = data[: match.start()] + b"\n}"
    if hashlib.sha256(key.encode() + whole).hexdigest().encode() != match[1]:
        raise ValueError("it is not what its seal says")
    return whole


def hashes_to(path: Path, sha256: str) -> bool:
    """Whether there is a file with this sha256 (hex); one that cannot be read has none."""
    try:
        return sha256_of(path) == sha256
    except OSError:
        return False


def sha256_of(path: Path) -> str:
    """In hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
