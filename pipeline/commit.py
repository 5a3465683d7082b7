"""Which commit the code that runs here is of, so that it can be found again."""

import subprocess
from pathlib import Path

_HERE = Path(__file__).resolve()


def commit() -> str:
    """Hex digits of the commit, with "+" where files differ from it; "" where nobody can say.

    That is so without git, and for code that is installed: the repository around it is another.
    """
    try:
        _git("ls-files", "--error-unmatch", str(_HERE))
        changed = _git("status", "--porcelain", "--untracked-files=no")
        return _git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_HERE.parent.parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
