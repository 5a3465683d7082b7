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
    r"|auth.?(key|code)|session.?id"
    r"|(^|\W|_)(sig|sas|jwt|hmac|auth|authorization|bearer|ticket|pass|pwd|pw|(rl|resource)?key)$"
    r"|^code$",  # a country_code is none
    re.IGNORECASE,
)
# Where a URL's query, fragment or path parameter begins, the last also by its escaped sign.
_MORE = re.compile(r"[?#]|(;|%3B|%3F|%23)[^/?#;]*?(=|%3D)", re.IGNORECASE)


def has_user(url: str) -> bool:
    """Whether a user, with or without a password, stands before the host."""
    return _USER.search(url) is not None


def has_secret(url: str) -> bool:
    """Whether there is a user, or a parameter in path, query or fragment that serves as a key."""
    names = re.findall(r"[?#&;]([^=?#&;]+)=", unquote(url))
    return has_user(url) or any(_SECRET.search(name) for name in names)


def without_secrets(url: str) -> str:
    """The URL as it may be shown: without user, path parameters, query and fragment."""
    shown = _USER.sub(r"\1//", url)
    more = _MORE.search(shown)
    return shown[: more.start()] if more else shown
