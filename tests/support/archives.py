"""A small archive, and what extracting it leaves behind."""

from pathlib import Path

from infra.stores import Store
from model.indexed_tar import TarReader
from pipeline.archive import Archive, local_tar, read_archive_index
from tars import packed

FILES = {
    "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt": b"2007_000032\n",
    "VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg": bytes(range(256)) * 300,
    "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png": b"mask",
}


TAR = packed(FILES)
OTHER = packed(FILES | {"more.txt": b"more"})


def contents(archive: Archive, store: Store, spool: Path) -> dict[str, bytes]:
    """Every member of an archive, read by offset as later stages do it."""
    with TarReader(local_tar(archive, store, spool)) as reader:
        return {
            member.name: reader.read(member.offset, member.size)
            for member in read_archive_index(archive, store, spool)
        }


def keys(store: Store) -> set[str]:
    """Everything in a store."""
    return {entry.key for entry in store.list("")}


def left(spool: Path) -> list[str]:
    """What a run leaves in the spool, locks aside."""
    return [path.name for path in spool.iterdir() if path.suffix != ".lock"]
