"""SSH keys of a run: made here, injected at boot, and the host's own replaced at the first login.

A machine that is new to us must show a key that we know beforehand, so the first one travels with
the order, where the provider and whatever runs on the machine can read it. It therefore serves
for one login: the machine then makes a key that nobody else has seen.
"""

import textwrap
from dataclasses import dataclass, field
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key pair in OpenSSH's formats."""

    private: str = field(repr=False)  # PEM
    public: str  # one line

    @classmethod
    def generate(cls, comment: str = "") -> Self:
        """A new pair; the comment stands at the end of the public line."""
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        return cls(private.decode(), f"{public.decode()} {comment}".strip())


def cloud_config(host_key: KeyPair) -> str:
    """User data that gives a machine this host key when it boots, and nothing else.

    cloud-init removes the keys of the image and writes only this one (its module `cc_ssh`).
    """
    private = textwrap.indent(host_key.private, " " * 4)
    return (
        "#cloud-config\n"
        "ssh_keys:\n"
        f"  ed25519_private: |\n{private}"
        f"  ed25519_public: {host_key.public}\n"
    )


# Run by a machine's root; {root} is empty but in tests. It ends with the new public key.
ROTATION = r"""
set -eu
fresh=$(mktemp -d {root}/etc/ssh/.fresh-XXXXXX)
trap 'rm -rf "$fresh"' EXIT
ssh-keygen -q -t ed25519 -N '' -C '' -f "$fresh/key"
# At the next boot cloud-init would read the order again and put the injected key back.
mkdir -p {root}/etc/cloud
touch {root}/etc/cloud/cloud-init.disabled
cloud={root}/var/lib/cloud/instances
rm -f $cloud/*/user-data.txt* $cloud/*/cloud-config.txt \
    {root}/run/cloud-init/combined-cloud-config.json \
    {root}/run/cloud-init/instance-data-sensitive.json
# What cloud-init pickled is needed by its later stages, while it still works.
(
    if command -v cloud-init; then cloud-init status --wait; fi
    rm -f $cloud/*/obj.pkl
) </dev/null >/dev/null 2>&1 &
mv -f "$fresh/key.pub" {root}/etc/ssh/ssh_host_ed25519_key.pub
mv -f "$fresh/key" {root}/etc/ssh/ssh_host_ed25519_key
{reload} >/dev/null
cat {root}/etc/ssh/ssh_host_ed25519_key.pub
"""
