"""The command `voc-train`: what must be settled before anything is imported, then the command line.

Half of what a short command takes is imports.
"""

import gc
import os
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, and exit as it says."""
    # For the first of our records pydantic would look through all that is installed for plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    gc.disable()  # what is imported is no garbage, and would be looked through again and again
    from pipeline.cli import main as command_line

    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()
    command_line()
