"""Secrets in URLs: what is one is refused or, where it must be used, never shown.

Parameters, logs and the store are read by more people than may open a bucket.
"""

import re
from urllib.parse import unquote

# `user:password@`, even where the password holds a /, ? or # that should have been escaped.
_USER = re.compile(r"(^|:)//(?:[^/?#]*|[^:/?#@\[]*:\D[^@]*)@")
# Names by which signed links (S3, GCS, Azure) and plain servers let in whoever has the link.
_SECRET = re.compile(
    r"signature|credential|token|secret|passw|api.?key|access.?key"
    r"|(^|\W|_)(sig|sas|jwt|key|auth|authorization|pass|pwd)$",
    re.IGNORECASE,
)


def has_user(url: str) -> bool:
    """Whether a user, with or without a password, stands before the host."""
    return _USER.search(url) is not None


def has_secret(url: str) -> bool:
    """Whether there is a user, or a parameter in query or fragment that serves as a key."""
    names = re.findall(r"[?#&;]([^=?#&;]+)=", unquote(url))
    return has_user(url) or any(_SECRET.search(name) for name in names)


def without_secrets(url: str) -> str:
    """The URL as it may be shown: without user, query and fragment."""
    return re.split(r"[?#]", _USER.sub(r"\1//", url), maxsplit=1)[0]
