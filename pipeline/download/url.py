"""Where an archive comes from: one URL, taken apart once and never shown with its secrets."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from infra.urls import has_secret, has_user, without_secrets
from model.errors import InputError

_CHECKSUM = re.compile(r"(.*)#sha256=(.*)", re.DOTALL)


@dataclass(frozen=True)
class ArchiveUrl:
    """A parsed archive URL.

    address: what is opened; its query may be a signature, so it is never shown or stored.
    shown: the address without query and fragment, for messages and manifests.
    path: the absolute path of a local file, else None.
    sha256: what the bytes must hash to (lower-case hex), or None when the user did not say.
    """

    address: str
    shown: str
    scheme: str
    host: str
    path: Path | None
    sha256: str | None

    @classmethod
    def parse(cls, url: str) -> "ArchiveUrl":
        """Parse a path or any fsspec URL, with `#sha256=HEX` at its end if the hash is known.

        Raises:
            InputError: the URL carries a password, or its checksum is none.
        """
        address, sha256 = url.strip(), None
        if match := _CHECKSUM.fullmatch(address):
            address, sha256 = match[1], match[2].lower()
        shown, path = without_secrets(address), None
        if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise InputError(f"The checksum in {shown}#sha256=… is not 64 hexadecimal digits.")
        if not address:
            raise InputError("An archive URL is empty; give a path or a URL.")
        # A signature in the query is what opens the address; no other secret has a place in it.
        if has_user(address) or has_secret("#" + address.partition("#")[2]):
            raise InputError(
                f"The archive URL of {shown} contains a secret; remove it and keep it in ~/.netrc "
                "(http) or in the environment (s3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)."
            )
        scheme = address.partition("://")[0].lower() if "://" in address else "file"
        try:
            if scheme == "file" and "::" not in address:
                path = _local_path(address)
                address = shown = path.as_uri()
            host = urlsplit(shown).hostname or ""
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{shown} is neither a path nor a URL; check it.") from error
        return cls(address, shown, scheme, host, path, sha256)

    @property
    def key(self) -> str:
        """A name for this address that says nothing about it: sha256, hex."""
        return hashlib.sha256(self.address.encode()).hexdigest()

    @property
    def file_name(self) -> str:
        """The last part of the path, as in the URL."""
        return PurePosixPath(unquote(self.shown)).name

    @property
    def called(self) -> str:
        """What messages call the archive: a plain path, or the URL without its secrets."""
        return self.shown if self.path is None else str(self.path)


def _local_path(address: str) -> Path:
    path = unquote(urlsplit(address).path) if "://" in address else address
    return Path(path).expanduser().absolute()
