"""Indexing a tar, reading by offset, writing a tar; and every tar that must be refused."""

import io
import os
import pickle
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import model.tar_headers
from model.errors import InputError
from model.indexed_tar import Member, TarReader, TarWriter, index_tar, read_index, write_index

FILES = {
    "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt": b"2007_000032\n",
    "VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg": b"\xff\xd8" + bytes(1500),
    "VOCdevkit/VOC2012/JPEGImages/empty.jpg": b"",
    "exactly-a-block": b"x" * 512,
}


def pack(
    path: Path, files: dict[str, bytes], *, format: int = tarfile.GNU_FORMAT, folders: bool = False
) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files.items():
            if folders:
                tar.addfile(special("/".join(name.split("/")[:-1]) or ".", tarfile.DIRTYPE))
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def special(name: str, type: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = type, target
    return entry


def block(name: str, size: int = 0, type: bytes = tarfile.REGTYPE) -> bytes:
    """A header on its own, which may claim what it likes."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, type
    return entry.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(records: bytes, type: bytes = tarfile.XHDTYPE) -> bytes:
    return block("pax", len(records), type) + padded(records)


END = bytes(1024)


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


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        list(index_tar(path))
    assert str(path) in str(caught.value)


def test_writer_is_read_by_others(tmp_path: Path) -> None:
    files = FILES | {"d/" * 90 + "long.jpg": b"1", "Löwe.jpg": b"2"}
    path = tmp_path / "shard-000000.tar"
    with TarWriter(path) as writer:
        members = [writer.add(name, data) for name, data in files.items()]
    assert members == list(index_tar(path))
    with tarfile.open(path) as tar:
        assert {entry.name: tar.extractfile(entry).read() for entry in tar} == files  # type: ignore[union-attr]
        assert {(e.mtime, e.uid, e.gid, e.mode, e.uname) for e in tar} == {(0, 0, 0, 0o644, "")}
    listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True)
    assert listed.stderr == ""
    assert len(listed.stdout.splitlines()) == len(files)


def test_writer_knows_size_and_hash_of_its_file(tmp_path: Path) -> None:
    from hashlib import sha256

    for name in ("a.tar", "b.tar"):
        with TarWriter(tmp_path / name) as writer:
            writer.add("x", b"data")
    data = (tmp_path / "a.tar").read_bytes()
    assert (writer.size, writer.sha256) == (len(data), sha256(data).hexdigest())
    assert data == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize("name", ["x", "", "../y", "/y", "a//b", "a\\b", "./c"])
def test_writer_takes_plain_new_names_only(tmp_path: Path, name: str) -> None:
    with TarWriter(tmp_path / "a.tar") as writer:
        writer.add("x", b"")
        with pytest.raises(ValueError, match=r"name|absolute|climbs|backslash"):
            writer.add(name, b"")


def test_a_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absolute"), TarWriter(tmp_path / "a.tar") as writer:
        writer.add("/x", b"data")
    assert not writer.path.exists()


def test_index_file_round_trip(tmp_path: Path) -> None:
    members = [Member("a", 512, 3), Member("Löwe.jpg", 1536, 0)]
    path = tmp_path / "a.jsonl"
    assert write_index(path, iter(members)) == 2
    assert list(read_index(path)) == members
    assert path.read_text().splitlines()[0] == '{"name": "a", "offset": 512, "size": 3}'


@pytest.mark.parametrize("line", ['{"name": "b"}', "[]", '{"name": "b", "offset"', "7"])
def test_a_damaged_index_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    write_index(path, [Member("a", 512, 3)])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match="damaged at line 2"):
        list(read_index(path))


def test_reader_refuses_a_short_read(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", FILES)
    member = next(index_tar(path))
    with TarReader(path) as reader:
        os.truncate(path, member.offset + 3)
        with pytest.raises(InputError, match="cut short"):
            reader.read(member.offset, member.size)


def test_reader_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        TarReader(tmp_path / "none.tar")


def test_reader_is_shared_by_threads(tmp_path: Path) -> None:
    files = {f"{number}": bytes([number]) * 5000 for number in range(50)}
    path = pack(tmp_path / "a.tar", files)
    members = list(index_tar(path))
    wrong: list[str] = []
    with TarReader(path) as reader:

        def read_all() -> None:
            wrong.extend(
                member.name
                for member in members * 10
                if reader.read(member.offset, member.size) != files[member.name]
            )

        threads = [threading.Thread(target=read_all) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_reader_survives_pickling(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", FILES)
    member = next(index_tar(path))
    with TarReader(path) as reader:
        pickled = pickle.dumps(reader)
    with pickle.loads(pickled) as again:
        assert again.read(member.offset, member.size) == FILES[member.name]
