"""A sweep in pictures: a PNG with the curves of all trials, and HTML with picture and table.

Like a run's report it opens anywhere, offline: nothing in it is fetched and nothing in it runs.
"""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from infra.protocol import run_key
from pipeline.grid import in_words
from pipeline.page import page
from pipeline.run import Run
from pipeline.sweep import PLOT, REPORT, Comparison, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 10  # curves that have a colour and a name; of more, the others are grey


def write_comparison(run: Run, comparison: Comparison) -> Comparison:
    """Write plot and report to the store, and to this computer; returns it with their paths."""
    png = plot_png(comparison)
    html = render(comparison, png).encode()
    run.folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for kind, name, data in (("plot", PLOT, png), ("report", REPORT, html)):
        run.store.put(run_key(run.run_id, name), data)
        (run.folder / name).write_bytes(data)
        paths[kind] = str(run.folder / name)
    return comparison.model_copy(update=paths)


def render(comparison: Comparison, png: bytes) -> str:
    """The report as HTML, the plot in it."""
    uri = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return page("sweep.html", sweep=comparison, plot=uri)


def plot_png(comparison: Comparison) -> bytes:
    """1800 pixels wide: validation mIoU by epoch, and beside it by setting."""
    file = io.BytesIO()
    _figure(comparison).savefig(file, format="png", dpi=150)
    return file.getvalue()


def _figure(comparison: Comparison) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    curves, scores = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_curves(curves, comparison.rows)
    if all(row.miou is None for row in comparison.rows):
        scores.remove()
    elif len(comparison.varied) == 2:
        _draw_map(scores, comparison)
    else:
        _draw_dots(scores, comparison.rows)
    figure.suptitle(f"{comparison.recipe}: sweep {comparison.run_id}", fontsize=11)
    return figure


def _draw_curves(axes: "Axes", rows: Sequence[Row]) -> None:
    """Every trial's validation mIoU, the best on top; a ring is around the best epoch."""
    from matplotlib.ticker import MaxNLocator

    drawn = [row for row in rows if row.curve]
    for place, row in reversed([*enumerate(drawn)]):
        named = place < _NAMED
        colour = f"C{place}" if named else "0.85"  # matplotlib's ten
        epochs, mious = zip(*row.curve, strict=True)
        label = in_words(row.settings) + (f" ({row.cause})" if row.cause else "")
        axes.plot(
            epochs,
            mious,
            color=colour,
            linewidth=2.4 if place == 0 else 1.4,
            linestyle="--" if row.cause else "-",
            marker="." if len(epochs) == 1 else None,
            label=label if named else None,
            zorder=3 if named else 2,
        )
        top = max(range(len(mious)), key=mious.__getitem__)
        if named:
            axes.plot(epochs[top], mious[top], "o", color=colour, markersize=6, fillstyle="none")
    axes.set(xlabel="epoch", ylabel="mIoU on the validation set")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if drawn:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8, loc="best")
    _plain(axes)


def _draw_map(axes: "Axes", comparison: Comparison) -> None:
    """A cell for each pair of values, its mIoU in colour and as a number."""
    down, across = comparison.varied
    rows, columns = (_values(comparison.rows, key) for key in (down, across))
    scored = [row.miou for row in comparison.rows if row.miou is not None]
    low, high = min(scored), max(scored)
    grid = [[float("nan")] * len(columns) for _ in rows]
    for row in comparison.rows:
        y, x = rows.index(row.settings[down]), columns.index(row.settings[across])
        if row.miou is not None:
            grid[y][x] = row.miou
        dark = row.miou is not None and row.miou < (low + high) / 2
        best = row.run_id == comparison.best
        axes.text(
            x,
            y,
            _said_of(row) + ("\nbest" if best else ""),
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold" if best else "normal",
            color="white" if dark else "black",
        )
    axes.imshow(grid, cmap="viridis", vmin=low, vmax=max(high, low + 1e-9), aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=across, ylabel=down, title="mIoU")


def _draw_dots(axes: "Axes", rows: Sequence[Row]) -> None:
    """A dot for each trial with a score, best first."""
    drawn = [(in_words(row.settings), row.miou) for row in rows if row.miou is not None]
    places = range(len(drawn))
    axes.plot([miou for _, miou in drawn], places, "o", color="tab:blue")
    axes.set_yticks(places, [name for name, _ in drawn], fontsize=8)
    axes.set(xlabel="mIoU", ylim=(len(drawn) - 0.5, -0.5))
    _plain(axes)


def _values(rows: Sequence[Row], key: str) -> list[str]:
    """A setting's values, numbers by size, words as they are."""
    values = sorted({row.settings[key] for row in rows})
    try:
        return sorted(values, key=float)
    except ValueError:
        return values


def _said_of(row: Row) -> str:
    if row.miou is not None:
        return f"{row.miou:.4f}"
    return row.how_it_stands.replace("_", "\n").replace(" ", "\n")


def _plain(axes: "Axes") -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
