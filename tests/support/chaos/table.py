"""The cases counted, as the table of the README has them."""

from collections import Counter
from collections.abc import Sequence

from chaos.cases import Case
from chaos.faults import Fault

_COLUMNS = {
    "killed, terminated, replaced, an exception": (
        Fault.KILLED_BEFORE,
        Fault.KILLED_AFTER,
        Fault.TERMINATED,
        Fault.WAKES_BESIDE,
        Fault.WAKES_AFTER,
        Fault.RAISES,
    ),
    "answer lost, none, 429, 500, 502": (
        Fault.LOST,
        Fault.TIMES_OUT,
        Fault.ANSWERS_429,
        Fault.ANSWERS_500,
        Fault.ANSWERS_502,
    ),
    "store away, refuses, loses a tail": (Fault.AWAY, Fault.REFUSES, Fault.TAIL),
    "machine vanishes, freezes, reboots, its clock is wrong": (
        Fault.VANISHES,
        Fault.FREEZES,
        Fault.REBOOTS,
        Fault.CLOCK,
    ),
    "disk full, agent or job killed": (Fault.FILLS, Fault.AGENT_KILLED, Fault.JOB_KILLED),
}
_ROWS = {
    "controller:provider": "calls to the provider",
    "controller:store": "writes of the controller to the store",
    "controller:ssh": "SSH connections and commands",
    "controller:process": "processes of the controller",
    "controller:stage": "edges of stages",
    "agent:store": "the agent's requests to the store",
    "start": "the machine from its start",
    "trainer": "with a real net in training",
}


def markdown(cases: Sequence[Case]) -> str:
    """Rows are where it goes wrong, columns how; a number is how many cases there are."""
    counts: Counter[tuple[str, str]] = Counter()
    acts: dict[str, set[str]] = {row: set() for row in _ROWS}
    for case in cases:
        row = next(row for row in _ROWS if case.name.startswith(row))
        column = next(column for column, faults in _COLUMNS.items() if case.fault in faults)
        counts[row, column] += 1
        acts[row].add(case.target)
    lines = [f"| at | acts | {' | '.join(_COLUMNS)} | cases |", f"|---|{'---:|' * 7}"]
    for row, name in _ROWS.items():
        if not acts[row]:
            continue
        cells = [str(counts[row, column] or "") for column in _COLUMNS]
        total = sum(counts[row, column] for column in _COLUMNS)
        lines.append(f"| {name} | {len(acts[row])} | {' | '.join(cells)} | {total} |")
    sums = [str(sum(counts[row, column] for row in _ROWS)) for column in _COLUMNS]
    lines.append(f"| **all** | | {' | '.join(sums)} | **{len(cases)}** |")
    return "\n".join(lines)
