"""A study while it is made: a bar in a terminal, in a notebook a grid that fills as pictures come."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape

from PIL import Image

from clipgen.studies.row import Row, RowState

SHOWN, SIDE, PAUSE = 96, 128, 1.0  # tiles, pixels of one, and seconds between two pictures of the same tile


@contextmanager
def watching(rows: Sequence[Row], progress: bool) -> Iterator[Callable[[], None]]:
    """A function that shows how far the rows are, to be called as often as one likes; nothing without ``progress``."""
    if not progress:
        yield lambda: None
        return
    if in_notebook():
        from IPython.display import display

        grid = ProgressGrid(rows)
        display(grid.widget)
        try:
            yield seldom(grid.look)
        finally:
            grid.look(last=True)
        return
    from tqdm.auto import tqdm

    with tqdm(total=sum(row.steps for row in rows), unit="step", dynamic_ncols=True) as bar:
        bar.initial = bar.n = bar.last_print_n = gone(rows, [row.state for row in rows])

        def look() -> None:
            states = [row.state for row in rows]
            failed = sum(bool(state.error) for state in states)
            bar.update(max(0, gone(rows, states) - bar.n))
            bar.set_postfix(rows=f"{sum(state.done for state in states)}/{len(rows)}", failed=failed, refresh=False)

        try:
            yield seldom(look)
        finally:
            look()


def seldom(look: Callable[[], None]) -> Callable[[], None]:
    """The same, at most a twentieth of the time: to look at 1,000 rows can take as long as to make one of them."""
    free = 0.0

    def looked() -> None:
        nonlocal free
        if (began := time.monotonic()) >= free:
            look()
            free = began + 20 * (time.monotonic() - began)

    return looked


def in_notebook() -> bool:
    """Whether this process is a notebook's."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


def gone(rows: Sequence[Row], states: Sequence[RowState]) -> int:
    """The steps that need not be made any more: those of failed rows count as made."""
    return sum(row.steps if state.done or state.error else state.step for row, state in zip(rows, states))


class ProgressGrid:
    """A tile for each row: its newest frame and what it varies; above them how far all are, and the time left."""

    def __init__(self, rows: Sequence[Row], clock: Callable[[], float] = time.monotonic):
        import ipywidgets as widgets

        self._rows, self._clock = rows, clock
        self._began, self._before = clock(), gone(rows, [row.state for row in rows])
        self._total = sum(row.steps for row in rows)
        self._bar, self.said = widgets.HTML(layout={"width": "100%"}), widgets.HTML()
        self.tiles = []
        for row in rows[:SHOWN]:
            picture = widgets.Image(format="jpeg", layout={"width": f"{SIDE}px", "display": "none"})
            label = widgets.HTML(_told(row.label))
            self.tiles.append(widgets.VBox([picture, label], layout={"width": f"{SIDE + 8}px", "margin": "2px"}))
            self.tiles[-1].add_class("clipgen-tile")
        self._shown: dict[int, tuple[int, bool, float]] = {}  # of a tile: the step, whether it is over, and when
        flow = widgets.Box(self.tiles, layout={"flex_flow": "row wrap"})
        self.widget = widgets.VBox([self.said, self._bar, flow])
        self.look(last=True)

    def look(self, last: bool = False) -> None:
        """Show what is new since the last look."""
        states = [row.state for row in self._rows]
        for place, (row, state) in enumerate(zip(self._rows[:SHOWN], states)):
            over = state.done or bool(state.error)
            step, was_over, when = self._shown.get(place, (0, False, -PAUSE))
            if (step, was_over) == (state.step, over) or not (over or last or self._clock() - when >= PAUSE):
                continue
            self._shown[place] = state.step, over, self._clock()
            picture, label = self.tiles[place].children
            if state.step and (frame := row.image):
                picture.value, picture.layout.display = _jpeg(frame), ""
            making = "" if state.done else f"step {state.step} of {row.steps}"
            label.value = _told(row.label, f"<b>{escape(state.error)}</b>" if state.error else making)
        made, failed, now = sum(s.done for s in states), sum(bool(s.error) for s in states), gone(self._rows, states)
        self._bar.value = (
            f'<progress aria-label="steps" value="{now}" max="{self._total}" style="width:100%"></progress>'
        )
        parts = [f"{made} of {len(states)} pictures"] + [f"{failed} failed"] * bool(failed)
        if now > self._before and now < self._total:
            parts.append(f"{_span((self._clock() - self._began) / (now - self._before) * (self._total - now))} left")
        if more := len(self._rows[SHOWN:]):
            parts.append(f"{more} more are not shown here")
        self.said.value = " · ".join(parts)


def _told(label: str, doing: str = "") -> str:
    return f'<div style="line-height:1.3;overflow-wrap:anywhere"><small>{escape(label)}<br>{doing}</small></div>'


def _jpeg(frame: Image.Image) -> bytes:
    out, side = io.BytesIO(), SIDE / max(frame.size)
    frame.resize((max(1, round(frame.width * side)), max(1, round(frame.height * side)))).save(out, "JPEG", quality=85)
    return out.getvalue()


def _span(seconds: float) -> str:
    """``1 h 5 min``, ``5 min``, ``20 s``."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
