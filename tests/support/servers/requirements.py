"""System programs that tests need: found, or the test is skipped with the line to install them."""

import os
import shutil

import pytest

# sshd and the Ceph daemons are often off an ordinary user's PATH.
_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def require(program: str, package: str) -> str:
    """The full path of `program`.

    Where it is missing the running test is skipped, and with CI=true it fails: there the packages
    are part of the set-up, and a skip would hide that a real server was never tried.
    """
    path = shutil.which(program, path=_SEARCH_PATH)
    if path is None:
        reason = (
            f"{program} is missing: sudo apt-get install --no-install-recommends {package}"
            " (all of them: make system-deps)"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return path
