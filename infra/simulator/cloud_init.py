"""What cloud-init does with user data on a simulated machine: it gives it its host key."""

from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from infra.simulator.machine_disk import HOST_KEY, write_host_key

_HEADER = "#cloud-config"


def apply_user_data(folder: Path, user_data: str) -> list[str]:
    """Do what the cloud-config says to the machine in `folder`; returns what there is to report.

    Only `ssh_keys` with an ed25519 key counts, and replaces the image's key. As with the real one,
    a mistake stops no boot.
    """
    if not user_data.strip():
        return []
    if not user_data.startswith(_HEADER):
        return [f"user data does not begin with {_HEADER} and is ignored"]
    try:
        config: Any = yaml.safe_load(user_data)
    except yaml.YAMLError as error:
        return [f"user data is no YAML: {error}"]
    if not isinstance(config, dict):
        return ["user data holds no settings"]
    said = [f"{name} is not simulated" for name in config if name != "ssh_keys"]
    keys = config.get("ssh_keys")
    if keys is None:
        return said
    return said + _set_host_key(folder, keys)


def _set_host_key(folder: Path, keys: Any) -> list[str]:
    if not isinstance(keys, dict) or not isinstance(keys.get("ed25519_private"), str):
        return ["ssh_keys holds no ed25519_private, so the image's host key stays"]
    try:
        key = load_ssh_private_key(keys["ed25519_private"].encode(), password=None)
    except ValueError as error:
        return [f"ed25519_private cannot be read: {error}"]
    if not isinstance(key, Ed25519PrivateKey):
        return ["ed25519_private is a key of another kind, so the image's host key stays"]
    write_host_key(folder / HOST_KEY, key, str(keys.get("ed25519_public", "")))
    return [
        "host key set",
        *(
            f"ssh_keys.{name} is not simulated"
            for name in keys
            if name not in ("ed25519_private", "ed25519_public")
        ),
    ]
