"""Archive URLs: what they are taken for, and what is never shown of them."""

from pathlib import Path

import pytest

from model.errors import InputError
from pipeline.download.url import ArchiveUrl


@pytest.mark.parametrize(
    "url",
    [
        "https://reader:hunter2@host/voc.tar",
        "https://hunter2@host/voc.tar?a=b",
        "s3://key:hunter2@bucket/voc.tar",
        "simplecache::https://reader:hunter2@host/voc.tar",
        "https://reader:hunter2/and?more#here@host/voc.tar",
        "https://host/voc.tar#token=hunter2",
        "https://host/voc.tar?part=1#access_token=hunter2",
        "https://host/voc.tar#token=hunter2#sha256=" + "0" * 64,
    ],
)
def test_secrets_in_urls_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="remove it and keep it in") as caught:
        ArchiveUrl.parse(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["a.tar#sha256=12", "a.tar#sha256=" + "g" * 64, "", "  "])
def test_malformed_urls_are_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"64 hexadecimal|empty"):
        ArchiveUrl.parse(url)


def test_paths_and_file_urls_are_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my photos #1?.tar"
    monkeypatch.chdir(tmp_path)
    parsed = [ArchiveUrl.parse(url) for url in (str(path), path.as_uri(), path.name)]
    assert {one.path for one in parsed} == {path}
    assert len({one.key for one in parsed}) == 1
    assert parsed[0].called == str(path)


def test_the_query_is_not_shown() -> None:
    url = ArchiveUrl.parse("https://host/voc.tar?signature=hunter2#sha256=" + "0" * 64)
    assert url.shown == url.called == "https://host/voc.tar"
    assert url.address == "https://host/voc.tar?signature=hunter2"
    assert url.file_name == "voc.tar"
