"""Devkits of any size from a few drawn scenes, quickly: every photo has bytes of its own."""

import tarfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from pipeline.sample_archive import write_sample_archive

_SCENES = 40
_SIDE = 500  # pixels, as VOC's


def write_devkit(path: Path, *, pairs: int, photos: int) -> None:
    """Write `photos` photos of which `pairs` have masks, one in ten of those to validate on."""
    drawn = path.with_suffix(".scenes.tar")
    write_sample_archive(drawn, train=_SCENES - 2, val=2, unlabelled=0, size=_SIDE)
    with tarfile.open(drawn) as tar:
        content = {Path(one.name).stem + Path(one.name).suffix: _bytes(tar, one) for one in tar}
    stems = cycle(sorted(name[:-4] for name in content if name.endswith(".png")))
    drawn.unlink()
    with path.open("wb") as file:
        for name, data in _members(content, stems, pairs, photos):
            info = tarfile.TarInfo(f"VOCdevkit/VOC2012/{name}")
            info.size = len(data)
            file.write(info.tobuf(tarfile.USTAR_FORMAT) + data)
            file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
        file.write(bytes(2 * tarfile.BLOCKSIZE))


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _members(
    content: dict[str, bytes], stems: Iterator[str], pairs: int, photos: int
) -> Iterator[tuple[str, bytes]]:
    every = photos // pairs
    labelled = [f"2012_{index:06d}" for index in range(0, photos, every)][:pairs]
    judging = set(labelled[::10])
    for split, names in (
        ("train", [name for name in labelled if name not in judging]),
        ("val", sorted(judging)),
    ):
        yield f"ImageSets/Segmentation/{split}.txt", "\n".join([*names, ""]).encode()
    wanted = set(labelled)
    for index, stem in zip(range(photos), stems, strict=False):
        name = f"2012_{index:06d}"
        yield f"JPEGImages/{name}.jpg", _with_comment(content[f"{stem}.jpg"], name)
        if name in wanted:
            yield f"SegmentationClass/{name}.png", content[f"{stem}.png"]


def _with_comment(jpeg: bytes, text: str) -> bytes:
    """The same picture by other bytes: a comment (ITU-T T.81, B.2.4.5) after the first marker."""
    segment = b"\xff\xfe" + (len(text) + 2).to_bytes(2) + text.encode()
    return jpeg[:2] + segment + jpeg[2:]
