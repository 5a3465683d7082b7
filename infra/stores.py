"""The store: a folder or a bucket behind one URL, and everything a run remembers.

`file:///abs/path` (or a plain path) is a folder on this computer, `s3://bucket/prefix` a bucket of
any S3 server. Both go through obstore: a put is atomic on either, so a reader never sees half an
object. Credentials come from the environment only (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_CA_BUNDLE`), never from the URL. A folder is made by the
first put; until then it is an empty store, and looking at it leaves no trace.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.store import LocalStore, MemoryStore, ObjectStore, S3Store
from pydantic import BaseModel

from infra.concurrently import concurrently
from infra.failure import Cause, Failure
from infra.integrity import sealed, sha256_of, unsealed
from infra.store_errors import FULL, explained
from infra.urls import has_user, without_secrets

M = TypeVar("M", bound=BaseModel)

_PART = 8 << 20  # bytes of a multipart upload's parts
_RANGE, _RANGES = 4 << 20, 4  # bytes of a range of a download, and how many come at a time
# A person who mistyped an endpoint hears of it within 2 s where the connection is refused and
# within 25 s where nobody answers. What must outlive an outage, such as the agent and whoever
# follows it, asks again by itself for much longer.
_CONNECT, _RETRY_FOR, _RETRIES = timedelta(seconds=5), timedelta(seconds=20), 6
_LONGEST = timedelta(minutes=5)  # of a request whose answer comes bit by bit


@dataclass(frozen=True)
class Entry:
    """One object in a listing; size in bytes, `modified` by the clock of the store."""

    key: str
    size: int
    modified: datetime = field(compare=False)


def s3_options() -> dict[str, Any]:
    """What obstore needs beyond the environment it reads itself, for `S3Store` and fsspec alike."""
    silence = _silence()
    limits = {"read_timeout": silence, "timeout": max(silence, _LONGEST)}
    options: dict[str, Any] = {
        "client_options": {"connect_timeout": _CONNECT, **limits},
        "retry_config": {"max_retries": _RETRIES, "retry_timeout": _RETRY_FOR},
    }
    # obstore's switch for a server without TLS, which then need not be in the environment twice.
    if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["client_options"]["allow_http"] = True
    # boto's variable for a private certificate authority; obstore does not read it by itself.
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        options["client_options"]["root_certificate"] = Path(bundle).read_bytes()
    return options


def _silence() -> timedelta:
    """How long a request may be without an answer; the time of sending a chunk counts."""
    said = os.environ.get("VOC_TRAIN_STORE_TIMEOUT") or "90"
    try:
        return timedelta(seconds=min(86400.0, max(0.1, float(said))))
    except ValueError:
        raise Failure(
            Cause.BAD_INPUT, f"VOC_TRAIN_STORE_TIMEOUT is {said!r}; give seconds, like 90."
        ) from None


def bucket_of(store_url: str) -> tuple[str, str]:
    """Bucket and prefix (without / at its ends) of `s3://bucket/prefix`; else Failure(STORE)."""
    parts = None if has_user(store_url) else urlsplit(store_url)
    if parts is None or parts.scheme != "s3" or not parts.netloc:
        raise Failure(
            Cause.STORE,
            f"{without_secrets(store_url)} is no bucket: use a store like s3://bucket/prefix.",
            permanent=True,
        )
    return parts.netloc, parts.path.strip("/")


class Store:
    """Objects by key under one URL. Keys use `/` and never start with it."""

    def __init__(self, url: str, at: Path | ObjectStore) -> None:
        self.url = url
        self._folder = at if isinstance(at, Path) else None
        self._bucket = None if isinstance(at, Path) else at

    @classmethod
    def open(cls, url: str) -> "Store":
        """Open a store by URL; `Failure(STORE)` when the URL is not one. Asks no server yet."""
        try:
            return cls._open(url)
        except (OSError, RuntimeError, ValueError) as error:  # from urlsplit and pathlib
            reason = error.strerror if isinstance(error, OSError) else error
            raise _no_store(f"{without_secrets(url)!r} is not a store ({reason})") from None

    @classmethod
    def _open(cls, url: str) -> "Store":
        parts = None if has_user(url) else urlsplit(url)
        if parts is None or (parts.scheme and (parts.query or parts.fragment)):
            raise Failure(
                Cause.STORE,
                "The store URL contains a user, a query or a fragment; remove it, and set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment instead.",
                permanent=True,
            )
        if not parts.scheme or (parts.scheme == "file" and parts.netloc in ("", "localhost")):
            folder = Path(unquote(parts.path) if parts.scheme else url).expanduser().absolute()
            if "\0" in str(folder):
                raise ValueError("it contains a null character")
            there = next(path for path in (folder, *folder.parents) if path.exists())
            if not there.is_dir():
                raise Failure(
                    Cause.STORE,
                    f"{there} is a file; a store is a folder or a bucket.",
                    permanent=True,
                )
            return cls(folder.as_uri(), folder)
        if parts.scheme == "s3" and parts.netloc:
            # Without these the library asks the network for keys, and waits long for no answer.
            if not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= os.environ.keys():
                raise Failure(
                    Cause.STORE,
                    f"There is no key for {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
                    "(and AWS_ENDPOINT_URL, unless it is Amazon's) in the environment.",
                    permanent=True,
                )
            with explained(url, ""):
                prefix = parts.path.strip("/") or None
                return cls(url.rstrip("/"), S3Store(parts.netloc, prefix=prefix, **s3_options()))
        raise _no_store(f"{url!r} is not a store")

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __reduce__(self) -> tuple[Callable[[str], "Store"], tuple[str]]:
        """Pickled as its URL: whoever opens it elsewhere has the keys of its own environment."""
        return Store.open, (self.url,)

    def _objects(self, *, write: bool = False) -> ObjectStore:
        if self._bucket is not None:
            return self._bucket
        assert self._folder is not None
        if not write and not self._folder.exists():
            return MemoryStore()  # an empty store
        return LocalStore(self._folder, mkdir=True)

    def put(self, key: str, data: bytes) -> None:
        """Write one object, whole or not at all."""
        with explained(self.url, key):
            obstore.put(self._objects(write=True), key, data)

    def put_file(self, key: str, path: Path, *, move: bool = False) -> None:
        """Write a file's content as one object, streaming; `move` may rename it into a folder.

        A `path` that is not there raises FileNotFoundError.
        """
        with path.open("rb") as file, explained(self.url, key):
            if move and self._folder is not None:
                target = self._folder / key
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    path.replace(target)
                    return
                except OSError as error:  # between file systems, or two mounts of one
                    if error.errno != errno.EXDEV:
                        raise
            obstore.put(self._objects(write=True), key, file, chunk_size=_PART)
        if move:
            path.unlink()

    def get(self, key: str) -> bytes | None:
        """Read one object, or None when there is none."""
        with explained(self.url, key):
            try:
                return bytes(obstore.get(self._objects(), key).bytes())
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):  # a mistyped bucket is no empty one
                    raise
                return None

    def read(self, key: str, kind: type[M]) -> M | None:
        """Read one object as a model: None when there is none, Failure(CORRUPT) when damaged."""
        data = self.get(key)
        try:
            return None if data is None else kind.model_validate_json(unsealed(key, data))
        except ValueError:
            raise Failure(
                Cause.CORRUPT, f"{key} in {self.url} is damaged; delete it there and run again."
            ) from None

    def read_whole(self, key: str, kind: type[M]) -> M | None:
        """The same where a damaged object is as good as none: it will be written again."""
        try:
            return self.read(key, kind)
        except Failure as failure:
            if failure.cause is not Cause.CORRUPT:
                raise
            return None

    def write(self, key: str, model: BaseModel) -> None:
        """Write a model as one object of JSON, sealed, whole or not at all."""
        self.put(key, sealed(key, model.model_dump_json(indent=1).encode()))

    def get_file(
        self, key: str, path: Path, *, sha256: str | None = None, link: bool = False
    ) -> None:
        """Bring one object to `path`, whole and verified or not at all.

        With `link`, a store that is a folder gives a symbolic link to the object, no copy. Raises
        Failure(STORE) when there is no such object, Failure(CORRUPT) when it has another sha256.
        """
        with explained(self.url, key):
            try:
                if not path.parent.is_dir():
                    path.parent.mkdir(parents=True, exist_ok=True)
                # A name of our own, since others may bring the same object at the same time.
                part = path.with_name(f".{secrets.token_hex(8)}")
                try:
                    if self._folder is None:
                        self._download(key, part)
                    elif link:
                        part.symlink_to(self._folder / key)
                    else:
                        shutil.copyfile(self._folder / key, part)
                    if sha256 is not None:
                        self._verify(key, part, sha256)
                    part.replace(path)
                except BaseException:
                    part.unlink(missing_ok=True)
                    raise
            except FileNotFoundError:
                raise Failure(
                    Cause.STORE, f"There is no {key} in {self.url}.", permanent=True
                ) from None
            except OSError as error:
                if error.errno not in FULL:
                    raise
                raise Failure(
                    Cause.STORE, f"The disk is full: {path} could not be written; free some space."
                ) from error

    def _download(self, key: str, path: Path) -> None:
        """At once where it is small, else by ranges, a few at a time.

        Each is asked for again where its line breaks.
        """
        objects = self._objects()
        whole = obstore.get(objects, key)
        size = whole.meta["size"]
        if size <= _RANGE:
            path.write_bytes(whole.bytes())
            return
        del whole  # of which hardly anything has come
        path.touch()

        def bring(start: int) -> None:
            data = obstore.get_range(objects, key, start=start, end=min(start + _RANGE, size))
            with path.open("r+b") as file:
                file.seek(start)
                file.write(data)

        concurrently(bring, range(0, size, _RANGE), _RANGES)

    def _verify(self, key: str, path: Path, sha256: str) -> None:
        if sha256_of(path) == sha256:
            return
        whole = "/".join(key.split("/")[:2])
        raise Failure(
            Cause.CORRUPT,
            f"{key} in {self.url} is damaged: its sha256 is not {sha256[:12]}…; "
            f"delete {whole} there and run again.",
        )

    def size(self, key: str) -> int | None:
        """Size of one object in bytes, or None when there is none."""
        with explained(self.url, key):
            try:
                return int(obstore.head(self._objects(), key)["size"])
            except FileNotFoundError:
                return None

    def list(self, prefix: str) -> Iterator[Entry]:
        """All objects whose key starts with the folder `prefix`, in order of their keys."""
        with explained(self.url, prefix):
            entries = [
                Entry(meta["path"], meta["size"], meta["last_modified"])
                for batch in obstore.list(self._objects(), prefix.rstrip("/") or None)
                for meta in batch
            ]
        return iter(sorted(entries, key=lambda entry: entry.key))

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Names directly under the folder `prefix`, one request however much lies below them."""
        with explained(self.url, prefix):
            objects = self._objects()
            found = obstore.list_with_delimiter(objects, prefix.rstrip("/"))["common_prefixes"]
            if self._folder is not None:  # where those of deleted objects stay, empty
                found = [name for name in found if any(obstore.list(objects, name, chunk_size=1))]
        return tuple(sorted(name.rsplit("/", 1)[-1] for name in found))

    def delete(self, key: str) -> None:
        """Delete one object; absent already is a success."""
        with explained(self.url, key):
            try:
                obstore.delete(self._objects(), key)
            except FileNotFoundError:
                return

    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete objects in no particular order; absent already is a success."""
        if isinstance(self._bucket, S3Store):  # a thousand of them by one request
            with explained(self.url, ""):
                obstore.delete(self._bucket, list(keys))
            return
        for key in keys:
            self.delete(key)

    def local_path(self, key: str) -> Path | None:
        """Where the object lies on this computer, for a store that is a folder; else None."""
        return None if self._folder is None else self._folder / key


def _no_store(what: str) -> Failure:
    return Failure(
        Cause.STORE,
        f"{what}: use file:///a/folder, a plain path or s3://bucket/prefix.",
        permanent=True,
    )
