"""Checksums: official ones by name, and the user's own."""

import re
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest

from downloads import DATA
from model.errors import InputError
from pipeline.download.checksums import OFFICIAL, OFFICIAL_HOSTS, Checksums, OfficialArchive
from pipeline.download.url import ArchiveUrl


def test_official_checksums_are_torchvisions() -> None:
    """Read from its source: importing it takes seconds."""
    package = find_spec("torchvision")
    assert package is not None
    assert package.origin is not None
    source = (Path(package.origin).parent / "datasets" / "voc.py").read_text()
    published = set(re.findall(r'/([^/"]+\.tar)",.*?"md5": "([0-9a-f]{32})"', source, re.DOTALL))
    assert {(name, official.md5) for name, official in OFFICIAL.items()} <= published


@pytest.mark.parametrize(
    ("url", "data", "verdict"),
    [
        ("https://official.example/voc.tar", b"right", True),
        ("https://official.example/voc.tar", b"other length", None),
        ("https://mirror.example/voc.tar", b"wrong", None),
        ("https://mirror.example/voc.tar", b"right", True),
        ("https://mirror.example/voc.tar", b"somebody's own archive", False),
        ("https://official.example/else.tar", b"wrong", False),
    ],
)
def test_official_names_bind(
    monkeypatch: pytest.MonkeyPatch, url: str, data: bytes, verdict: bool | None
) -> None:
    """The size is that of b"right", and b"wrong" has it too. None: refused."""
    from hashlib import md5

    monkeypatch.setitem(OFFICIAL, "voc.tar", OfficialArchive(5, md5(b"right").hexdigest()))
    monkeypatch.setattr(
        "pipeline.download.checksums.OFFICIAL_HOSTS", OFFICIAL_HOSTS | {"official.example"}
    )
    checksums = Checksums(ArchiveUrl.parse(url))
    checksums.update(data)
    if verdict is None:
        with pytest.raises(InputError, match="wrong checksum: md5"):
            checksums.verify()
    else:
        assert checksums.verify() is verdict


def test_the_given_sha256_binds() -> None:
    digest = sha256(DATA).hexdigest()
    for given, right in ((digest, True), (digest.upper(), True), ("0" * 64, False)):
        checksums = Checksums(ArchiveUrl.parse(f"/data/voc.tar#sha256={given}"))
        checksums.update(DATA)
        if right:
            assert checksums.verify()
        else:
            with pytest.raises(InputError, match=r"/data/voc\.tar has the wrong checksum: sha256"):
                checksums.verify()
