"""Small notes on a disk that must be whole after anything, a power cut included."""

import os
from pathlib import Path


def write_durably(path: Path, text: str) -> None:
    """Write a note that only its owner may read, whole or not at all. Raises OSError."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or the name may come back to what was there before
    finally:
        os.close(folder)
