"""The earlier runs of a folder: thumbnail, prompt, and what can be done with them."""

from __future__ import annotations

import html
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from clipgen.errors import ClipgenError
from clipgen.prompts import Prompt, format_prompt
from clipgen.runs.course import Course
from clipgen.runs.journal import Journal
from clipgen.runs.spec import named_today
from clipgen.studio.controls import DEFAULTS
from clipgen.studio.parts import close_all
from clipgen.studio.pictures import encode, keep

PAGE = 12


class Gallery(widgets.VBox):
    """The newest runs first, a page at a time; ``open``, ``resume`` and ``replay`` are called with a run's folder."""

    def __init__(self, folder: Path, actions: dict[str, Callable[[Path], None]]):
        self._folder, self._actions = folder, actions
        self._wanted = PAGE
        self._cards: dict[tuple[Path, int], widgets.Widget] = {}
        self._grid = widgets.Box(layout={"flex_flow": "row wrap"})
        self._more = widgets.Button(description="More", tooltip="Show more runs")
        self._more.on_click(self._show_more)
        super().__init__([widgets.HTML("<b>Earlier runs</b>"), self._grid, self._more])
        self.add_class("clipgen-gallery")
        self.refresh()

    def refresh(self) -> None:
        """Look into the folder again."""
        try:
            folders = sorted((file.parent for file in self._folder.glob("*/settings.json")), reverse=True)
        except OSError:  # a disk that is not reachable now; what is shown stays
            return
        cards: list[widgets.Widget] = []
        left = iter(folders)
        while len(cards) < self._wanted and (folder := next(left, None)):
            with suppress(Exception):  # damaged in whatever way, or of another version
                cards.append(self._card(folder))
        self._grid.children = cards
        for key in [key for key, card in self._cards.items() if card not in cards]:
            close_all(self._cards.pop(key))
        self._more.layout.display = "" if next(left, None) else "none"

    def _show_more(self, _: Any) -> None:
        self._wanted += PAGE
        self.refresh()

    def _card(self, folder: Path) -> widgets.Widget:
        journal = Journal.open(folder)
        step = journal.steps[-1] if journal.steps else 0
        if (folder, step) not in self._cards:
            settings = journal.settings
            asked = [settings, *journal.changes]
            prompt = next((str(change["prompt"]) for change in reversed(asked) if "prompt" in change), "")
            done = step >= settings.get("steps", 0) or Course(journal).over
            picture = _thumbnail(journal, step) if step else b""
            names = [name for name in self._actions if not (name == "Resume" and done)]
            buttons = [self._button(name, folder, prompt) for name in names]
            text = html.escape(prompt) + ("" if done else f" <i>(step {step})</i>")
            thumbnail = widgets.Image(value=picture, format="jpeg", layout={"display": "" if picture else "none"})
            card = widgets.VBox([thumbnail, widgets.HTML(text), widgets.HBox(buttons)]).add_class("clipgen-card")
            self._cards[folder, step] = card
        return self._cards[folder, step]

    def _button(self, name: str, folder: Path, prompt: str) -> widgets.Button:
        button = widgets.Button(description=name, tooltip=f"{name}: {prompt}")
        button.on_click(lambda _: self._actions[name](folder))
        return button


def _thumbnail(journal: Journal, step: int) -> bytes:
    """Return a frame as JPEG bytes; none where only its disk fails. Raises ClipgenError for a damaged one."""
    try:
        return encode(journal.frame(step), 128)
    except ClipgenError as error:
        cause: BaseException | None = error
        while cause and not (isinstance(cause, OSError) and cause.errno):  # no decoder's error has a number
            cause = cause.__cause__
        if cause is None:
            raise
        return b""


def settings_of(journal: Journal, folder: Path, changed: bool = True) -> dict[str, Any]:
    """All settings of a run, with what was changed on its way, to ask for again.

    What only the run's own folder knows (pictures and latents that came without a file) is written below ``folder``.
    """
    settings: dict[str, Any] = DEFAULTS | named_today(journal.settings, journal.settings)  # an old run knows fewer
    for change in journal.changes if changed else []:
        settings |= named_today(change, journal.settings)
    for name, value in journal.inputs().items():
        if not name.startswith(("http://", "https://")) and not Path(name).exists():
            path = keep(folder, name, value)
            settings |= {knob: settings[knob].replace(name, path) for knob in ("init", "mask")}
            settings["prompt"] = settings["prompt"].replace(format_prompt(Prompt(name)), format_prompt(Prompt(path)))
    return settings
