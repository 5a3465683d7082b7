"""The token that opens Linode's API: where it is found, and what it has to reach."""

import configparser
import os
import re
from collections.abc import Sequence
from pathlib import Path

from infra.provider import Kind, Unauthorised

HOW = (
    "make a personal access token (Cloud Manager, My Profile, API Tokens) and put it into "
    "LINODE_TOKEN"
)

_SCOPES = {
    Kind.INSTANCE: "linodes:read_write",
    Kind.VOLUME: "volumes:read_write",
    Kind.FIREWALL: "firewall:read_write",
    Kind.KEY: "object_storage:read_write",
    Kind.SCRIPT: "stackscripts:read_write",
}
_SCOPES_TO_LOOK = ("account:read_only", "events:read_only")


def find_token() -> str:
    """LINODE_TOKEN, else LINODE_CLI_TOKEN, else that of linode-cli's default user.

    Raises Unauthorised where there is none, or where it is no token; the message never shows it.
    """
    for name in ("LINODE_TOKEN", "LINODE_CLI_TOKEN"):
        if token := os.environ.get(name, "").strip():
            return _checked(token, name)
    path = _configuration()
    if token := _configured(path):
        return _checked(token, str(path))
    raise Unauthorised(f"There is no token for Linode: {HOW}, or run `linode-cli configure`.")


def missing_scopes(scopes: str | None, kinds: Sequence[Kind]) -> list[str]:
    """Of those needed for `kinds`; none where Linode did not say what the token may do."""
    given = set((scopes or "*").replace(",", " ").split())
    needed = [*(_SCOPES[kind] for kind in dict.fromkeys(kinds)), *_SCOPES_TO_LOOK]
    return [scope for scope in needed if not _grants(given, scope)]


def _grants(given: set[str], scope: str) -> bool:
    area, _, _ = scope.partition(":")
    enough = {"*", f"{area}:*", f"{area}:read_write", scope}
    return bool(enough & given)


def _checked(token: str, source: str) -> str:
    # In a header anything else raises an error that quotes the token.
    if not re.fullmatch(r"[!-~]+", token):
        raise Unauthorised(f"What {source} holds is no token: {HOW}.")
    return token


def _configuration() -> Path:
    if chosen := os.environ.get("LINODE_CLI_CONFIG"):
        return Path(chosen)
    legacy = Path.home() / ".linode-cli"
    if legacy.is_file():
        return legacy
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "linode-cli"


def _configured(path: Path) -> str:
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read_string(path.read_text(encoding="utf-8"))
        user = settings.defaults().get("default-user", "")
        return settings.get(user, "token", fallback="").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, UnicodeDecodeError, configparser.Error):
        pass  # raised below: a parser's error quotes the line, and that may be the token's
    raise Unauthorised(f"{path}, linode-cli's configuration, cannot be read: {HOW}.")
