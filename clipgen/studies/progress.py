"""Progress of a study: a bar in a terminal, in a notebook a grid of the newest pictures."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape

from PIL import Image

from clipgen.studies.row import Row, RowState

TILES, SIDE, PAUSE = 96, 128, 1.0  # number of tiles, pixels of one, seconds between two pictures of the same tile


@contextmanager
def show_progress(rows: Sequence[Row], progress: bool) -> Iterator[Callable[[], None]]:
    """Yield a function that shows how far the rows are, to be called as often as one likes."""
    if not progress:
        yield lambda: None
    elif _is_notebook():
        from IPython.display import display

        grid = ProgressGrid(rows)
        display(grid.widget)
        try:
            yield _throttle(grid.update)
        finally:
            grid.update(last=True)
    else:
        from tqdm.auto import tqdm

        with tqdm(total=sum(row.steps for row in rows), unit="step", dynamic_ncols=True) as bar:
            bar.initial = bar.n = bar.last_print_n = count_steps(rows, [row.state for row in rows])

            def update() -> None:
                states = [row.state for row in rows]
                failed = sum(bool(state.error) for state in states)
                bar.update(max(0, count_steps(rows, states) - bar.n))
                bar.set_postfix(rows=f"{sum(state.done for state in states)}/{len(rows)}", failed=failed, refresh=False)

            try:
                yield _throttle(update)
            finally:
                update()


def _throttle(update: Callable[[], None]) -> Callable[[], None]:
    """Limit a function to a twentieth of the time: the states of 1,000 rows can take as long as one row."""
    next_time = 0.0

    def throttled() -> None:
        nonlocal next_time
        began = time.monotonic()
        if began >= next_time:
            update()
            next_time = began + 20 * (time.monotonic() - began)

    return throttled


def _is_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


def count_steps(rows: Sequence[Row], states: Sequence[RowState]) -> int:
    """Return the number of steps that are made, or not to be made: all those of a failed row."""
    return sum(row.steps if state.done or state.error else state.step for row, state in zip(rows, states))


class ProgressGrid:
    """A widget with a tile for each row: its newest frame, and what it varies; above them the progress of all.

    Attributes:
        widget: To be displayed.
        tiles: The first ``TILES`` rows' pictures with their labels.
        summary: The line above them.
    """

    def __init__(self, rows: Sequence[Row], clock: Callable[[], float] = time.monotonic):
        import ipywidgets as widgets

        self._rows, self._clock = rows, clock
        self._began, self._steps_before = clock(), count_steps(rows, [row.state for row in rows])
        self._total = sum(row.steps for row in rows)
        self._bar, self.summary = widgets.HTML(layout={"width": "100%"}), widgets.HTML()
        self.tiles = []
        for row in rows[:TILES]:
            picture = widgets.Image(format="jpeg", layout={"width": f"{SIDE}px", "display": "none"})
            label = widgets.HTML(_label_html(row.label))
            self.tiles.append(widgets.VBox([picture, label], layout={"width": f"{SIDE + 8}px", "margin": "2px"}))
            self.tiles[-1].add_class("clipgen-tile")
        self._displayed: dict[int, tuple[int, bool, float]] = {}  # of a tile: the step, whether it has ended, and when
        flow = widgets.Box(self.tiles, layout={"flex_flow": "row wrap"})
        self.widget = widgets.VBox([self.summary, self._bar, flow])
        self.update(last=True)

    def update(self, last: bool = False) -> None:
        """Show what has changed. ``last``: also in tiles that have changed less than a second ago."""
        states = [row.state for row in self._rows]
        for i, state in enumerate(states[:TILES]):
            self._update_tile(i, state, last)
        done, failed = sum(state.done for state in states), sum(bool(state.error) for state in states)
        steps = count_steps(self._rows, states)
        self._bar.value = (
            f'<progress aria-label="steps" value="{steps}" max="{self._total}" style="width:100%"></progress>'
        )
        parts = [f"{done} of {len(states)} pictures"] + [f"{failed} failed"] * bool(failed)
        if self._steps_before < steps < self._total:
            per_step = (self._clock() - self._began) / (steps - self._steps_before)
            parts.append(f"{_format_duration(per_step * (self._total - steps))} left")
        if more := len(self._rows[TILES:]):
            parts.append(f"{more} more are not shown here")
        self.summary.value = " · ".join(parts)

    def _update_tile(self, i: int, state: RowState, last: bool) -> None:
        row, ended = self._rows[i], state.done or bool(state.error)
        step, had_ended, updated_at = self._displayed.get(i, (0, False, -PAUSE))
        if (step, had_ended) == (state.step, ended):
            return
        if not (ended or last or self._clock() - updated_at >= PAUSE):
            return
        self._displayed[i] = state.step, ended, self._clock()
        picture, label = self.tiles[i].children
        if state.step and (frame := row.image):
            picture.value, picture.layout.display = _encode_thumbnail(frame), ""
        status = "" if state.done else f"step {state.step} of {row.steps}"
        label.value = _label_html(row.label, f"<b>{escape(state.error)}</b>" if state.error else status)


def _label_html(label: str, status: str = "") -> str:
    return f'<div style="line-height:1.3;overflow-wrap:anywhere"><small>{escape(label)}<br>{status}</small></div>'


def _encode_thumbnail(frame: Image.Image) -> bytes:
    out, scale = io.BytesIO(), SIDE / max(frame.size)
    size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    frame.resize(size).save(out, "JPEG", quality=85)
    return out.getvalue()


def _format_duration(seconds: float) -> str:
    """Return ``1 h 5 min``, ``5 min`` or ``20 s``."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
