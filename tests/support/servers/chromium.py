"""A real browser for tests: headless Chromium, one picture of one local file."""

import subprocess
import tempfile
from pathlib import Path

from servers.requirements import require

_SECONDS = 60


def screenshot(page: Path, picture: Path, *, width: int, height: int, dark: bool = False) -> None:
    """Show the HTML file `page` in a window of that many CSS pixels and save a PNG of it.

    The browser starts with an empty profile, runs as root too, and looks nothing up by itself.
    Skips the test where there is no Chromium; CalledProcessError or TimeoutExpired when it fails.
    """
    chromium = require("chromium", "chromium")
    # A blank profile: neither the developer's settings nor what an earlier test left behind.
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [
            chromium,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--hide-scrollbars", "--force-device-scale-factor=1"),
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
            page.as_uri(),
        ]
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
