"""Reading members by offset, writing a tar, and the index file."""

import os
import pickle
import subprocess
import tarfile
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from model.errors import InputError
from model.indexed_tar import Member, TarReader, TarWriter, index_tar, read_index, write_index
from tars import FILES, pack


def test_writer_is_read_by_others(tmp_path: Path) -> None:
    files = FILES | {"d/" * 90 + "long.jpg": b"1", "Löwe.jpg": b"2"}
    path = tmp_path / "shard-000000.tar"
    writer = TarWriter(path)
    members = [writer.add(name, data) for name, data in files.items()]
    writer.close()
    assert members == list(index_tar(path))
    with tarfile.open(path) as tar:
        assert {entry.name: tar.extractfile(entry).read() for entry in tar} == files  # type: ignore[union-attr]
        assert {(e.mtime, e.uid, e.gid, e.mode, e.uname) for e in tar} == {(0, 0, 0, 0o644, "")}
    listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True)
    assert listed.stderr == ""
    assert len(listed.stdout.splitlines()) == len(files)


def test_writer_knows_size_and_hash_of_its_file(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        writer = TarWriter(tmp_path / name)
        writer.add("x", b"data")
        writer.close()
    data = (tmp_path / "a.tar").read_bytes()
    assert (writer.size, writer.sha256) == (len(data), sha256(data).hexdigest())
    assert data == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize("name", ["x", "", "../y", "/y", "a//b", "a\\b", "./c"])
def test_writer_takes_plain_new_names_only(tmp_path: Path, name: str) -> None:
    writer = TarWriter(tmp_path / "a.tar")
    first = writer.add("x", b"")
    with pytest.raises(ValueError, match=r"name|absolute|climbs|backslash"):
        writer.add(name, b"")
    writer.close()
    assert list(index_tar(writer.path)) == [first]  # the refused one left no trace


def test_closing_a_writer_again_changes_nothing(tmp_path: Path) -> None:
    writer = TarWriter(tmp_path / "a.tar")
    writer.close()
    size, sha256 = writer.size, writer.sha256
    writer.close()
    assert (writer.size, writer.sha256) == (size, sha256)


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


def test_names_of_any_language_and_with_any_space_are_indexed(tmp_path: Path) -> None:
    names = ("Übung/été 東京.jpg", "Screenshot 9.41\u202fPM.png", "no\xa0break.txt")
    path = pack(tmp_path / "a.tar", dict.fromkeys(names, b"data"))
    assert [member.name for member in index_tar(path)] == list(names)
