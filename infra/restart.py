"""An agent that is started again when its machine has been rebooted, without a controller.

The order that the controller gave over SSH, keys included, waits in the run's folder in a file
that only root may read, until the agent has ended. At boot whatever order lies there is carried
out (`stackscripts/`). This is for rented machines: their key opens one bucket, was minted for the
run and is deleted with it, and so is the disk. On a host of the user's own nothing is left.
"""

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from infra.durable import write_durably

RESTART = "restart.sh"  # in the run's folder; the StackScripts know it by this name


class GoingDown(Exception):
    """The machine is being shut down; what was begun goes on when it is up again."""


@contextmanager
def restarted_at_boot(
    folder: Path, store_url: str, run_id: str, secrets: Mapping[str, str]
) -> Iterator[None]:
    """Have the agent of the run in `folder` started again, should the machine end within the block.

    Whoever leaves it by GoingDown is to be started again as well.
    """
    start = [sys.executable, "-m", "infra.launch", "start", str(folder)]
    start += ["--store", store_url, "--run", run_id, "--restart"]
    code = shlex.quote(os.environ.get("PYTHONPATH", ""))
    # JSON in one line, which cannot be taken for the word that ends it.
    keys = f"<<'END'\n{json.dumps(dict(secrets))}\nEND\n"
    with contextlib.suppress(OSError):  # a full disk: it works until the machine ends
        write_durably(folder / RESTART, f"PYTHONPATH={code} exec {shlex.join(start)} {keys}")
    try:
        yield
    except GoingDown:
        raise
    except BaseException:
        withdraw_order(folder)
        raise
    withdraw_order(folder)


def withdraw_order(folder: Path) -> None:
    """Nothing is to be started again; harmless where nothing was."""
    (folder / RESTART).unlink(missing_ok=True)
