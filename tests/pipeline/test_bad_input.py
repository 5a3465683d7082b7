"""Bad input: whatever is wrong, one sentence says what and what to do, and no dataset is left.

Most cases go through `voc-train evaluate`, called in this process: it runs the same three stages
as `voc-train run`, without waiting for Prefect. The last ones start the installed command.
"""

import gzip
import io
import json
import os
import re
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from commands import COMMAND, Said, VocTrain
from devkit import HEIGHT, WIDTH, devkit, encoded, entry, jpeg, mask_of, palette_png, raw_png
from model.palette import colourise
from pipeline.sample_archive import SAMPLE_CLASSES, write_sample_archive
from servers.file_server import FileServer
from servers.prefect import PrefectServer
from small_disk import Disk

PHOTO = "VOCdevkit/VOC2012/JPEGImages/two.jpg"
MASK = "VOCdevkit/VOC2012/SegmentationClass/two.png"
SHOWN = re.compile(r"(extract|separate|build-dataset) (…|(done|reused) in \d+\.\d s: .+)")


@pytest.fixture
def evaluate(weights: Path, voc_train: VocTrain, tmp_path: Path) -> VocTrain:
    """Score archives: extract, separate and build-dataset, and a net that is soon done."""

    def evaluate(*archives: object, store: object = tmp_path / "store", **options: str) -> Said:
        named = [word for url in archives for word in ("--archive", url)]
        more = [word for key, value in options.items() for word in (f"--{key}", value)]
        return voc_train("evaluate", weights, *named, "--store", store, "--device", "cpu", *more)

    return evaluate


def assert_refused(said: Said, *fragments: str) -> None:
    assert said.code == 2, said
    assert said.out == ""
    *stages, sentence = said.err.splitlines()
    assert all(SHOWN.fullmatch(line) for line in stages), said.err
    assert sentence.startswith("voc-train: ")
    for fragment in fragments:
        assert fragment in sentence


def manifests(store: Path) -> list[Path]:
    return list(store.glob("datasets/*/manifest.json"))


def bytes_of(**kit: Any) -> Callable[[Path], bytes]:
    return lambda folder: devkit(folder / "kit.tar", **kit).read_bytes()


def with_extra(*extra: tuple[tarfile.TarInfo, bytes]) -> Callable[[Path], bytes]:
    return bytes_of(extra=extra)


def good(folder: Path) -> bytes:
    return bytes_of()(folder)


def a_huge_jpeg() -> bytes:
    """An ordinary one whose header claims 65,500 x 65,500 pixels."""
    data = jpeg("two")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 65_500, 65_500) + data[at + 4 :]


def an_odd_colour() -> bytes:
    painted = colourise(mask_of("two"))
    painted[1, 2] = (1, 2, 3)
    return encoded(Image.fromarray(painted), "PNG")


SYMLINK, HARD_LINK = tarfile.SYMTYPE, tarfile.LNKTYPE
BAD: dict[str, tuple[Callable[[Path], bytes], tuple[str, ...]]] = {
    "not a tar": (lambda _: b"hello\n" * 1000, ("is not a tar archive; give",)),
    "empty file": (lambda _: b"", ("is empty",)),
    "truncated tar": (lambda folder: good(folder)[:6000], ("is truncated", "download or pack it")),
    "without its end": (lambda folder: good(folder).rstrip(b"\0"), ("is truncated",)),
    "truncated gzip": (lambda folder: gzip.compress(good(folder))[:-9], ("truncated gzip file",)),
    "climbing": (with_extra(entry("VOCdevkit/../../evil", b"x")), ("climbs out of its folder",)),
    "absolute": (with_extra(entry("/etc/evil", b"x")), ("'/etc/evil'", "absolute path")),
    "symbolic link": (
        with_extra(entry("VOCdevkit/link", type=SYMLINK, linkname="/etc/passwd")),
        ("'VOCdevkit/link', a symbolic link; pack it again",),
    ),
    "hard link": (
        with_extra(entry("VOCdevkit/link", type=HARD_LINK, linkname=PHOTO)),
        ("a hard link; pack it again",),
    ),
    "device": (with_extra(entry("VOCdevkit/dev", type=tarfile.CHRTYPE)), ("a device; pack it",)),
    "pipe": (with_extra(entry("VOCdevkit/dev", type=tarfile.FIFOTYPE)), ("a named pipe; pack",)),
    "a member twice": (with_extra(entry(PHOTO, jpeg("x"))), (PHOTO, "twice; pack it again")),
    "no ImageSets": (
        bytes_of(lists={"train": None, "val": None}),
        ("has no ImageSets/Segmentation/train.txt", "layout of the PASCAL VOC devkit"),
    ),
    "no photo": (bytes_of(photos={"two": None}), ("two (photo)", "Complete the archive, or")),
    "no mask": (bytes_of(masks={"two": None}), ("two (mask)", "--skip-missing")),
    "empty train list": (
        bytes_of(lists={"train": b"\n"}),
        ("No pair is left in the train list", "name an archive"),
    ),
    "empty val list": (bytes_of(lists={"val": b""}), ("No pair is left in the val list",)),
    "train and val overlap": (
        bytes_of(lists={"val": b"three\none\n"}),
        ("one is listed both in train.txt and in val.txt", "Take it out of one list"),
    ),
    "sizes differ": (
        bytes_of(masks={"two": palette_png(mask_of("two", WIDTH, HEIGHT))}),
        (PHOTO, "16x12 pixels, but its mask is 12x16", "must have the same size"),
    ),
    "index outside the classes": (
        bytes_of(masks={"two": palette_png(mask_of("two") | 21)}),
        (MASK, "the class index 21", "name all classes with --classes"),
    ),
    "colour outside the classes": (
        bytes_of(masks={"two": an_odd_colour()}),
        (MASK, "the colour (1, 2, 3) at row 1, column 2", "give masks as palette"),
    ),
    "broken JPEG": (
        bytes_of(photos={"two": b"\xff\xd8\xff\xe0 no more of it"}),
        (PHOTO, "is damaged", "replace it, or leave the pair out"),
    ),
    "truncated JPEG": (
        bytes_of(photos={"two": jpeg("two")[:-100]}),
        (PHOTO, "truncated", "replace it"),
    ),
    "empty JPEG": (bytes_of(photos={"two": b""}), (PHOTO, "is empty; replace it")),
    "text for a photo": (bytes_of(photos={"two": b"a photo"}), (PHOTO, "not one of JPEG, PNG")),
    "broken PNG": (
        bytes_of(masks={"two": palette_png(mask_of("two"))[:80]}),
        (MASK, "is damaged", "replace it"),
    ),
    "empty PNG": (bytes_of(masks={"two": b""}), (MASK, "is empty; replace it")),
    "JPEG for a mask": (bytes_of(masks={"two": jpeg()}), (MASK, "not one of PNG, GIF, BMP")),
    "PNG that claims 50,000 x 50,000": (
        bytes_of(masks={"two": raw_png(50_000, 50_000, 8, b"")}),
        (MASK, "unpacks to far more pixels than any photo; replace it"),
    ),
    "PNG of few bytes and many pixels": (
        bytes_of(masks={"two": raw_png(8_200, 8_192, 1, bytes(8_200 * 1_025))}),
        (MASK, "8192x8200 pixels, over the limit of 64 megapixels", "--limit photo_megapixels"),
    ),
    "JPEG that claims 65,500 x 65,500": (
        bytes_of(photos={"two": a_huge_jpeg()}),
        (PHOTO, "unpacks to far more pixels than any photo"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_archive_is_refused(case: str, evaluate: VocTrain, tmp_path: Path) -> None:
    write, fragments = BAD[case]
    (tmp_path / "kit").mkdir()
    path = tmp_path / "bad.tar"
    path.write_bytes(write(tmp_path / "kit"))
    # A score needs only the split that it is of, so that one is asked for.
    split = "train" if case == "empty train list" else "val"
    assert_refused(evaluate(path, split=split), "bad.tar", *fragments)
    assert manifests(tmp_path / "store") == []


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_a_good_archive_is_scored_afterwards(
    evaluate: VocTrain, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    """The same URL, the same store: what was refused stands in nobody's way."""
    path = tmp_path / "voc.tar"
    devkit(path, photos={"two": b""})
    path.write_bytes(pack(path.read_bytes()))
    assert_refused(evaluate(path), PHOTO)
    devkit(path)
    path.write_bytes(pack(path.read_bytes()))
    said = evaluate(path)
    assert said.code == 0, said
    assert len(manifests(tmp_path / "store")) == 1


def test_a_wrong_checksum_is_refused(evaluate: VocTrain, tmp_path: Path) -> None:
    path = devkit(tmp_path / "voc.tar")
    assert_refused(evaluate(f"{path}#sha256={'0' * 64}"), "voc.tar", "wrong checksum")
    assert_refused(evaluate(f"{path}#sha256=12"), "voc.tar", "is not 64 hexadecimal digits")
    assert manifests(tmp_path / "store") == []


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("archive_gb=5e-6", "larger than 5,000 bytes, the limit for an archive; raise it with"),
        ("photo_megapixels=1e-4", "16x12 pixels, over the limit of 0.0001 megapixels"),
    ],
)
def test_what_is_over_a_limit_is_refused(
    evaluate: VocTrain, tmp_path: Path, limit: str, said: str
) -> None:
    path = tmp_path / "voc.tgz"
    path.write_bytes(gzip.compress(good(tmp_path)))
    assert_refused(evaluate(path, limit=limit), said, f"--limit {limit.partition('=')[0]}=")
    assert manifests(tmp_path / "store") == []


def test_what_cannot_be_had_is_refused(
    evaluate: VocTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer() as server:
        assert_refused(evaluate(f"{server.url}/voc.tar"), f"{server.url}/voc.tar", "check the URL")
        url = f"{server.url}/voc.tar"
    assert_refused(evaluate(url), url, "cannot be reached", "Check the URL and the network")
    assert_refused(evaluate(tmp_path / "none.tar"), "none.tar does not exist")
    assert_refused(evaluate("gopher://host/voc.tar"), "gopher://")
    assert manifests(tmp_path / "store") == []


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("--recipe", "tini"), ("no recipe 'tini'", "Did you mean 'tiny'?")),
        (("--set", "epoch=3"), ("no setting 'epoch'", "Did you mean 'epochs'?")),
        (("--set", "epochs=0"), ("epochs='0' does not fit",)),
        (("--set", "epochs"), ("--set 'epochs' is not KEY=VALUE",)),
        (("--max-side", "7"), ("--max-side: must be at least 8",)),
        (("--max-side", "big"), ("--max-side",)),
        (("--limit", "train_hours=0"), ("--limit train_hours: must be more than 0",)),
        (("--limit", "archive_gb=inf"), ("--limit archive_gb: ",)),
        (("--limit", "hours=1"), ("--limit has no setting 'hours'", "'train_hours'?")),
        (("--workers", "-1"), ("--workers: must be at least 0",)),
        (("--device", "gpu"), ("--device: ", "'cuda'")),
        (("--layout", "voc"), ("--layout kind: must be 'auto', ",)),
        (("--wandb", "maybe"), ("--wandb: ", "'offline'")),
        (("--classes", "cat"), ("--classes: ",)),
        (("--classes", "cat,cat"), ("--classes: every class needs a name, and no two the same",)),
        (("--archive", "https://a:hunter2@host/v.tar"), ("v.tar contains a secret", "remove it")),
        (("--archive", "https://host/v.tar?X-Amz-Signature=hunter2"), ("v.tar contains a secret",)),
        (("--store", "s3://a:hunter2@bucket"), ("--store: the URL of bucket contains a secret",)),
        (("--store", "ftp://host/store"), ("'ftp://host/store' is not a store: use file:///",)),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_bad_parameter_is_refused(
    arguments: tuple[str, ...],
    fragments: tuple[str, ...],
    voc_train: VocTrain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "pipeline.cli.runs.prepare_prefect"
    monkeypatch.setattr(name, lambda: pytest.fail("Prefect was started"))
    (tmp_path / "voc.tar").touch()
    said = voc_train("run", "local", "--archive", tmp_path / "voc.tar", *arguments)
    assert_refused(said, *fragments)
    assert "hunter2" not in said.err


def test_no_archive_is_refused(voc_train: VocTrain) -> None:
    assert_refused(voc_train("run", "local"), "Name at least one --archive")


def test_a_store_that_is_a_file_is_refused(evaluate: VocTrain, tmp_path: Path) -> None:
    archive, file = devkit(tmp_path / "voc.tar"), tmp_path / "file"
    file.write_bytes(b"mine")
    for store in (file, file / "below"):
        assert_refused(evaluate(archive, store=store), f"{file} is a file; a store is")
    assert file.read_bytes() == b"mine"


@pytest.fixture
def two_megabytes(tmp_path: Path) -> Path:
    """An archive that does not fit."""
    large = {name: jpeg(name, 512, 512, quality=95) for name in ("one", "two", "three", "four")}
    masks = {name: palette_png(mask_of(name, 512, 512)) for name in large}
    path = devkit(tmp_path / "large.tar", train=("one", "two", "four"), photos=large, masks=masks)
    assert sum(map(len, large.values())) > 1 << 20
    return path


def test_a_full_store_is_refused(evaluate: VocTrain, disk: Disk, two_megabytes: Path) -> None:
    store = disk.folder / "store"
    assert_refused(evaluate(two_megabytes, store=store), "The store is full", "Free some space")
    assert manifests(store) == []
    disk.remount("size=16m")
    assert evaluate(two_megabytes, store=store).code == 0
    assert len(manifests(store)) == 1


def test_a_full_spool_is_refused(
    evaluate: VocTrain,
    disk: Disk,
    two_megabytes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VOC_TRAIN_HOME", str(disk.folder))
    assert_refused(evaluate(two_megabytes), f"{disk.folder}/spool cannot be written", "free some")
    assert manifests(tmp_path / "store") == []


def test_a_store_that_cannot_be_written_is_refused(
    evaluate: VocTrain, disk: Disk, tmp_path: Path
) -> None:
    """Not even root writes to a file system that is mounted to be read."""
    archive = devkit(tmp_path / "voc.tar")
    disk.remount("ro")
    for store in (disk.folder, disk.folder / "store"):
        said = evaluate(archive, store=store)
        assert_refused(said, f"No permission for {store.as_uri()}", "check the folder's rights")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_without_rights_is_refused(evaluate: VocTrain, tmp_path: Path) -> None:
    store = tmp_path / "locked"
    store.mkdir(mode=0o555)
    assert_refused(evaluate(devkit(tmp_path / "voc.tar"), store=store), "No permission for")


def installed(*arguments: object, **environment: str) -> Said:
    """The installed command, as people call it."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def test_a_run_with_a_bad_photo_ends_with_its_name(tmp_path: Path, prefect: PrefectServer) -> None:
    """Through the whole flow; what Prefect says on the way is not shown."""
    write_sample_archive(tmp_path / "whole.tar", train=3, val=1, unlabelled=0, size=32)
    broken = io.BytesIO((tmp_path / "whole.tar").read_bytes())
    with tarfile.open(fileobj=broken) as tar:
        photo = next(member for member in tar if member.name.endswith(".jpg"))
    with broken.getbuffer() as data:
        data[photo.offset_data : photo.offset_data + photo.size] = bytes(photo.size)
    (tmp_path / "broken.tar").write_bytes(broken.getvalue())
    said = installed(
        *("run", "local", "--archive", tmp_path / "broken.tar", "--recipe", "tiny"),
        *("--store", tmp_path / "store", "--classes", ",".join(SAMPLE_CLASSES), "--json"),
        PREFECT_API_URL=prefect.api,
    )
    assert said.code == 2, said
    (failed,) = map(json.loads, said.out.splitlines())
    assert failed["cause"] == "BAD_INPUT"
    assert failed["message"] in said.err
    last = said.err.splitlines()[-1]
    assert last.startswith("voc-train: ")
    assert "broken.tar" in last
    assert f"{photo.name} is damaged" in last
    assert "replace it" in last
    assert "Traceback" not in said.err
    assert manifests(tmp_path / "store") == []


def test_a_bad_parameter_ends_before_prefect_starts(tmp_path: Path) -> None:
    said = installed(
        *("run", "local", "--archive", tmp_path / "voc.tar", "--set", "epochs=0"),
        *("--store", tmp_path / "store"),
        PREFECT_HOME=str(tmp_path / "prefect"),
    )
    assert_refused(said, "epochs='0' does not fit recipe 'voc-segmentnet'")
    assert not (tmp_path / "prefect").exists()
    assert not (tmp_path / "store").exists()
