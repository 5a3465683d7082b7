"""Where the token is found, and that an unusable one is refused without being shown."""

from pathlib import Path

import pytest

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.linode.token import find_token
from infra.provider import Unauthorised

CONFIGURATION = """[DEFAULT]
default-user = mine

[other]
token = of-another

[mine]
token = 50%-from-the-file
region = us-ord
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with nothing set up."""
    for name in ("LINODE_TOKEN", "LINODE_CLI_TOKEN", "LINODE_CLI_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("LINODE_URL", "LINODE_CA", "VOC_TRAIN_SSH_PORT", "VOC_TRAIN_SSH_USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(path: Path, text: str = CONFIGURATION) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_environment_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".linode-cli")
    monkeypatch.setenv("LINODE_CLI_TOKEN", "second")
    assert find_token() == "second"

    monkeypatch.setenv("LINODE_TOKEN", " first\n")
    assert find_token() == "first"


@pytest.mark.parametrize("place", [".linode-cli", ".config/linode-cli", "moved", "chosen/file"])
def test_linode_clis_own_token_is_found(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "moved":
        monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "moved"))
        place = "moved/linode-cli"
    elif place == "chosen/file":
        monkeypatch.setenv("LINODE_CLI_CONFIG", str(home / place))
    write(home / place)

    assert find_token() == "50%-from-the-file"


@pytest.mark.parametrize("text", [None, "", "[DEFAULT]\ndefault-user = nobody\n", "[mine]\n"])
def test_no_token_says_how_to_get_one(home: Path, text: str | None) -> None:
    if text is not None:
        write(home / ".linode-cli", text)

    with pytest.raises(Unauthorised, match="LINODE_TOKEN.*linode-cli configure"):
        Linode.from_environment(Clock())


@pytest.mark.parametrize("text", ["canary-token\n", "[mine]\ncanary-token\n[mine]\n", "\udcff"])
def test_a_broken_configuration_is_named_but_not_quoted(home: Path, text: str) -> None:
    path = home / ".linode-cli"
    path.write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(Unauthorised, match=str(path)) as caught:
        find_token()

    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("token", ["canary token", "canary\ntoken", "canary-tökën"])
def test_what_cannot_be_a_token_is_not_sent(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("LINODE_TOKEN", token)

    with pytest.raises(Unauthorised, match="LINODE_TOKEN") as caught:
        find_token()

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("port", ["ssh", "0", "65536", "-1", "²"])
def test_an_unusable_port_is_named(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("LINODE_TOKEN", "token")
    monkeypatch.setenv("VOC_TRAIN_SSH_PORT", port)

    with pytest.raises(Failure, match="VOC_TRAIN_SSH_PORT") as caught:
        Linode.from_environment(Clock())

    assert caught.value.cause is Cause.BAD_INPUT
