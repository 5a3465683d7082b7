"""What the bytes of an archive must hash to, and whether they do."""

import hashlib
from typing import NamedTuple

from model.errors import InputError
from pipeline.download.url import ArchiveUrl


class OfficialArchive(NamedTuple):
    """Size in bytes and md5 of an archive as the VOC challenge publishes it."""

    size: int
    md5: str


# The md5s are those of torchvision's dataset source, the sizes those the official host states.
OFFICIAL = {
    "VOCtrainval_06-Nov-2007.tar": OfficialArchive(460032000, "c52e279531787c972589f7e41ab4ae64"),
    "VOCtest_06-Nov-2007.tar": OfficialArchive(451020800, "b6e924de25625d8de591ea690078ad9f"),
    "VOCtrainval_11-May-2012.tar": OfficialArchive(1999639040, "6cd6e144f989b92b3379bac3b3de84fd"),
}
OFFICIAL_HOSTS = frozenset({"thor.robots.ox.ac.uk", "host.robots.ox.ac.uk"})


class Checksums:
    """The sha256 of a stream, and its md5 where somebody published one to compare with."""

    def __init__(self, url: ArchiveUrl) -> None:
        self.size = 0
        self._url = url
        self._official = OFFICIAL.get(url.file_name)
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        """Take in the next bytes."""
        self.size += len(chunk)
        self._sha256.update(chunk)
        if self._official is not None:
            self._md5.update(chunk)

    @property
    def sha256(self) -> str:
        """Of everything taken in so far, lower-case hex."""
        return self._sha256.hexdigest()

    def verify(self) -> bool:
        """Compare with what is known of this archive; False when nothing is known.

        The user's own sha256 always counts. An official file name binds to the official md5 when
        the file comes from an official host, or has exactly the official size: a damaged copy on
        a mirror or a disk is caught, and an archive that merely has the same name is left alone.

        Raises:
            InputError: the bytes are not the ones that were promised.
        """
        promised: list[tuple[str, str, str]] = []
        if self._url.sha256 is not None:
            promised.append(("sha256", self._url.sha256, self.sha256))
        official = self._official
        if official and (self._url.host in OFFICIAL_HOSTS or self.size == official.size):
            promised.append(("md5", official.md5, self._md5.hexdigest()))
        for kind, expected, found in promised:
            if found != expected:
                raise InputError(
                    f"{self._url.called} has the wrong checksum: {kind} {found}, expected "
                    f"{expected}. It is damaged or not the file you mean; download it again."
                )
        return bool(promised)
