"""Indexing a tar: every format that is in use, and names as they should be."""

import subprocess
import tarfile
from pathlib import Path

import pytest

from model.indexed_tar import TarReader, index_tar
from tars import END, FILES, block, pack, padded, pax


def contents(path: Path) -> dict[str, bytes]:
    with TarReader(path) as reader:
        return {member.name: reader.read(*member[1:]) for member in index_tar(path)}


@pytest.mark.parametrize("folders", [False, True])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_read_by_offset(tmp_path: Path, format: int, folders: bool) -> None:
    path = pack(tmp_path / "a.tar", FILES, format=format, folders=folders)
    assert contents(path) == FILES
    assert [member.name for member in index_tar(path)] == list(FILES)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path: Path, format: int) -> None:
    files = {"d/" * 90 + "long.jpg": b"1", "Fotos/Löwe.jpg": b"22", "plain.jpg": b"333"}
    assert contents(pack(tmp_path / "a.tar", files, format=format)) == files


def test_size_from_a_pax_record(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(
        pax(b"10 size=5\n") + block("a", 0) + padded(b"12345") + block("b", 1) + padded(b"6") + END
    )
    assert contents(path) == {"a": b"12345", "b": b"6"}


def test_names_are_normalised(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"./VOCdevkit//VOC2012/./a.jpg": b"1"})
    assert [member.name for member in index_tar(path)] == ["VOCdevkit/VOC2012/a.jpg"]


def test_a_tar_from_the_tar_program(tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"photo")
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "a.tar", "./VOCdevkit"], check=True)
    assert contents(tmp_path / "a.tar") == {"VOCdevkit/a.jpg": b"photo"}


def test_what_macos_and_git_add_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(
        pax(b"19 comment=0123456\n", tarfile.XGLTYPE)
        + block("JPEGImages/._a.jpg", 3)
        + padded(b"mac")
        + block("JPEGImages/a.jpg", 5)
        + padded(b"photo")
        + END
    )
    assert contents(path) == {"JPEGImages/a.jpg": b"photo"}


def test_a_folder_with_a_size_has_no_data(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(block("d", 4096, tarfile.DIRTYPE) + block("d/a", 1) + padded(b"1") + END)
    assert contents(path) == {"d/a": b"1"}
