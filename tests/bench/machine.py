"""On what figures were measured."""

import os
from datetime import UTC, datetime


def where() -> str:
    """Day, commit, processor and cores, in a line."""
    from model.provenance import processor  # with torch, which is not to be measured
    from pipeline.commit import commit

    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit()[:12] or 'unknown'}, {processor()}, "
        f"{os.cpu_count()} cores"
    )
