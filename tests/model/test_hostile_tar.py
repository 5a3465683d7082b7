"""Every tar that must be refused, in a sentence that names it."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

import model.tar_headers
from model.errors import InputError
from model.indexed_tar import index_tar
from tars import END, FILES, block, pack, padded, pax, special


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        list(index_tar(path))
    assert str(path) in str(caught.value)


LINKS_AND_DEVICES = {
    "a symbolic link": special("x", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": special("x", tarfile.LNKTYPE, "a.jpg"),
    "a device": special("x", tarfile.CHRTYPE),
    "a named pipe": special("x", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", LINKS_AND_DEVICES)
def test_links_and_devices_are_refused(tmp_path: Path, kind: str) -> None:
    path = pack(tmp_path / "a.tar", FILES)
    with tarfile.open(path, "a") as tar:
        tar.addfile(LINKS_AND_DEVICES[kind])
    assert_refused(path, rf"holds 'x', {kind}; pack it again")


def test_a_block_device_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(block("sda", 0, tarfile.BLKTYPE) + END)
    assert_refused(path, "'sda', a device")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../outside.jpg", r"'\.\.'"),
        ("VOCdevkit/../../outside.jpg", r"'\.\.'"),
        ("/etc/passwd", "absolute"),
        ("C:/windows.jpg", "absolute"),
        ("..\\outside.jpg", "backslash"),
        ("a\nb.jpg", "control character"),
        ("a\x1b[31m.jpg", "control character"),
        ("a\x9b2J.jpg", r"'a\\x9b2J.jpg', a name that .* invisible or control character"),
        ("a\u202egpj.exe", r"'a\\u202egpj.exe', .* invisible or control character"),
        ("a\u2028b.jpg", "invisible or control character"),
        ("x/" * 3000, "longer"),
        (".", "as a file"),
    ],
)
def test_names_that_are_tricks_are_refused(tmp_path: Path, name: str, why: str) -> None:
    assert_refused(pack(tmp_path / "a.tar", {"fine.jpg": b"1", name: b"2"}), why)


def test_a_folder_outside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(block("../d", 0, tarfile.DIRTYPE) + END)
    assert_refused(path, r"'\.\.'")


def test_a_hidden_nul_in_a_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(pax(b"19 path=a.jpg\x00.exe\n") + block("a", 1) + padded(b"1") + END)
    assert_refused(path, "control character")


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    entry = tarfile.TarInfo("L\xf6we.jpg")
    path.write_bytes(entry.tobuf(tarfile.USTAR_FORMAT, "latin-1") + END)
    assert_refused(path, "not UTF-8")


@pytest.mark.parametrize("second", ["a/b.jpg", "./a//b.jpg"])
def test_a_member_twice_is_refused(tmp_path: Path, second: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(block("a/b.jpg", 1) + padded(b"1") + block(second, 1) + padded(b"2") + END)
    assert_refused(path, "twice")


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / "a.tar", FILES)
    monkeypatch.setattr(model.tar_headers, "_MAX_MEMBERS", len(FILES))
    assert len(list(index_tar(path))) == len(FILES)
    monkeypatch.setattr(model.tar_headers, "_MAX_MEMBERS", len(FILES) - 1)
    assert_refused(path, "more than 3 files")


@pytest.mark.parametrize("content", [b"", b"short", b"not a tar\n" * 200, b"\x1f\x8b" + bytes(600)])
def test_what_is_not_a_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    assert_refused(path, "not a tar archive; give")


@pytest.mark.parametrize("missing", [1, 511, 700, 1535, 3200])
def test_a_truncated_tar_is_refused(tmp_path: Path, missing: int) -> None:
    path = pack(tmp_path / "a.tar", FILES)
    last = list(index_tar(path))[-1]
    os.truncate(path, last.offset + last.size - missing)
    assert_refused(path, "truncated")


@pytest.mark.parametrize("kept", range(1, len(FILES) + 1))
def test_a_tar_that_lost_whole_members_is_refused(tmp_path: Path, kept: int) -> None:
    path = pack(tmp_path / "a.tar", FILES)
    last = list(index_tar(path))[kept - 1]
    os.truncate(path, last.offset + last.size + -last.size % 512)
    assert_refused(path, "before its end mark")


def test_a_missing_end_mark_is_forgiven_when_a_checksum_vouches(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(block("a", 1) + padded(b"1"))
    assert_refused(path, "before its end mark")
    assert [member.name for member in index_tar(path, require_end=False)] == ["a"]


def test_half_a_header_is_never_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes((block("a", 1) + padded(b"1") + block("b", 1))[:-100])
    with pytest.raises(InputError, match="truncated"):
        list(index_tar(path, require_end=False))


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(block("a", 1) + padded(b"1") + b"?" + block("b")[1:] + END)
    assert_refused(path, "damaged at byte 1024")


HOSTILE: dict[str, Callable[[], tuple[bytes, str]]] = {
    "past the end of the file": lambda: (block("a", 1 << 40), "truncated"),
    "a negative size": lambda: (with_size_field(b"\xff" * 12), "negative size"),
    "an absurd size": lambda: (with_size_field(b"\x80" + b"\x7f" * 11), "truncated"),
    "a long name of 300 MB": lambda: (
        block("L", 300 << 20, b"L"),
        "extended header of 314,572,800",
    ),
    "a PAX header of 300 MB": lambda: (block("x", 300 << 20, b"x"), "extended header of 314,572"),
    "a PAX header cut short": lambda: (block("x", 2000, b"x") + b"30 path=", "truncated"),
    "a PAX record too long": lambda: (pax(b"99 path=a\n") + block("a"), "damaged header"),
    "a PAX record of length 0": lambda: (pax(b"0 path=a\n") + block("a"), "damaged header"),
    "a PAX record without =": lambda: (pax(b"8 hello\n") + block("a"), "damaged header"),
    "a PAX size that is none": lambda: (pax(b"11 size=-5\n") + block("a"), "states the size '-5'"),
    "a PAX size past the end": lambda: (pax(b"15 size=999999\n") + block("a"), "truncated"),
    "a sparse GNU file": lambda: (block("a", 0, b"S"), "sparse"),
    "a sparse PAX file": lambda: (pax(b"22 GNU.sparse.major=1\n") + block("a"), "sparse"),
    "a name for all members": lambda: (pax(b"12 path=abc\n", b"g") + block("a"), "at once"),
    "an unknown type": lambda: (block("a", 0, b"V"), "unknown type"),
}


def with_size_field(field: bytes) -> bytes:
    header = bytearray(block("a"))
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused(tmp_path: Path, case: str) -> None:
    data, message = HOSTILE[case]()
    path = tmp_path / "a.tar"
    path.write_bytes(data + END)
    assert_refused(path, message)


def test_a_huge_extended_header_is_refused_unread(tmp_path: Path) -> None:
    """The file really is that long (sparse), so only the cap can refuse it."""
    path = tmp_path / "a.tar"
    path.write_bytes(block("x", 300 << 20, tarfile.XHDTYPE))
    os.truncate(path, 400 << 20)
    assert_refused(path, "extended header of 314,572,800 bytes")


def test_messages_stay_short(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"../" + "x" * 3000: b"1"})
    with pytest.raises(InputError) as caught:
        list(index_tar(path))
    assert len(str(caught.value)) < 400


def test_messages_use_the_archives_name(tmp_path: Path) -> None:
    path = tmp_path / "3f9a.part"
    path.write_bytes(b"no tar")
    with pytest.raises(InputError, match=r"^https://host/voc\.tar is not a tar"):
        list(index_tar(path, called="https://host/voc.tar"))


def test_a_missing_archive_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.tar", "No such file")
