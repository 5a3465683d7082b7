"""Photos from anywhere: pipes, devices, servers that do not say how much there is, odd URLs."""

import io
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from model import photos
from model.errors import InputError
from model.photos import Photos, read_photo
from servers.web import Served

PIXELS = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Answers with a photo in two pieces, and does not say how long it is."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    file = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(file, "PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(file.getvalue()[:1000])
            self.wfile.flush()
            self.wfile.write(file.getvalue()[1000:])

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with Served(Handler) as running:
        yield running.url


def test_an_answer_of_unknown_length_is_read_to_its_end(server: str, tmp_path: Path) -> None:
    (found,) = Photos([f"{server}/photo.png"], tmp_path / "out")
    np.testing.assert_array_equal(read_photo(found), PIXELS)


def test_an_answer_without_end_is_left(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photos, "_MOST_BYTES", 1500)
    (found,) = Photos([f"{server}/photo.png"], tmp_path / "out")
    with pytest.raises(InputError, match="it is no photo"):
        read_photo(found)


def test_queries_make_different_photos(tmp_path: Path) -> None:
    urls = [f"http://127.0.0.1/photo.png?id={number}" for number in (1, 2)]
    targets = {found.target for found in Photos(urls, tmp_path / "out")}
    assert len(targets) == 2
    assert not any("id" in str(target) for target in targets)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:SECRET/PW@host/photo.png",
        "http://user:SECRET#PW@host/photo.png",
        "http://[SECRET/photo.png",
        "http://host/SECRET%00.png",
    ],
)
def test_a_url_that_is_none_is_not_repeated(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="A URL among the paths") as caught:
        Photos([url], tmp_path / "out")
    assert "SECRET" not in str(caught.value)


def test_neither_pipes_nor_devices_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    for name in ("a.png", "b.png"):
        (found,) = Photos([str(tmp_path / name)], tmp_path / "out")
        with pytest.raises(InputError, match="is no file"):
            read_photo(found)


def test_what_a_terminal_would_obey_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "a\x1b]0;title\x07.png").touch()
    (tmp_path / os.fsdecode(b"\xff\xfe.png")).touch()
    for found in Photos([str(tmp_path)], tmp_path / "out"):
        assert found.name.isprintable()
        found.name.encode()
        assert Path(found.address).exists()


def test_no_path_is_not_the_current_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty"):
        Photos([""], tmp_path / "out")
