"""What can become of an object's bytes, on a disk or on a line."""

import pytest

OTHER = b'{\n "of": "another object"\n}'


def flipped(data: bytes) -> bytes:
    """One bit of a letter or digit, so that JSON may still parse."""
    places = [at for at, byte in enumerate(data) if chr(byte).isalnum()]
    place = places[len(places) // 4]  # a seal stands at the end
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES = {
    "flipped": flipped,
    "cut": lambda data: data[: len(data) * 2 // 3],
    "empty": lambda data: b"",
    "another's": lambda data: OTHER,
}
damaged = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
