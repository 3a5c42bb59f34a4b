"""The earlier runs of a folder: a picture, the prompt, and what can be done with each."""

import html
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from clipgen.errors import ClipgenError
from clipgen.images.masks import find_mask_file
from clipgen.prompts import Prompt, format_prompt, parse_parts
from clipgen.runs.frames import History
from clipgen.runs.inputs import Inputs
from clipgen.runs.journal import Journal
from clipgen.storage import is_address
from clipgen.studio.controls import DEFAULTS
from clipgen.studio.parts import button, close_all, hidden_image, save_input, show, to_jpeg

PAGE = 12  # runs


class Gallery(widgets.VBox):
    """The newest runs first, a page at a time, with a button for each action, which gets the run's folder."""

    def __init__(self, folder: Path, actions: Mapping[str, Callable[[Path], None]]):
        self._folder, self._actions, self._count = folder, actions, PAGE
        self._grid = widgets.Box(layout={"flex_flow": "row wrap"})
        self._more = button("More", self._show_more, tooltip="Show more runs")
        super().__init__([widgets.HTML("<b>Earlier runs</b>"), self._grid, self._more])
        self.add_class("clipgen-gallery")
        self.refresh()

    def refresh(self) -> None:
        """Read the folder again."""
        try:
            folders = sorted((file.parent for file in self._folder.glob("*/settings.json")), reverse=True)
        except OSError:  # a disk that cannot be reached now; the cards stay
            return
        cards: list[widgets.Widget] = []
        remaining = iter(folders)
        while len(cards) < self._count and (folder := next(remaining, None)):
            with suppress(Exception):  # a run that is damaged, or of another version
                cards.append(self._make_card(Journal.open(folder)))
        before, self._grid.children = self._grid.children, cards
        for card in before:
            close_all(card)
        show(self._more, next(remaining, None))

    def _show_more(self) -> None:
        self._count += PAGE
        self.refresh()

    def _make_card(self, journal: Journal) -> widgets.Widget:
        step = journal.steps[-1] if journal.steps else 0
        prompts = [entry["prompt"] for entry in (journal.settings, *journal.changes) if "prompt" in entry]
        prompt = str(prompts[-1]) if prompts else ""
        is_finished = step >= journal.settings.get("steps", 0) or History(journal).should_stop
        buttons = [
            button(label, partial(action, journal.folder), tooltip=f"{label}: {prompt}")
            for label, action in self._actions.items()
            if not (label == "Resume" and is_finished)
        ]
        image = hidden_image("thumbnail")
        with suppress(ClipgenError):  # a frame that is damaged, or on a disk that cannot be reached now
            image.value = to_jpeg(journal.frame(step), 128)
            show(image)
        text = widgets.HTML(html.escape(prompt) + ("" if is_finished else f" <i>(step {step})</i>"))
        return widgets.VBox([image, text, widgets.HBox(buttons)]).add_class("clipgen-card")


def read_settings(journal: Journal, folder: Path, changed: bool = True) -> dict[str, Any]:
    """Return the settings that a run began with, or if ``changed`` those at its end.

    Pictures and latents that only the run's own folder has are written below ``folder``. Raises ClipgenError for a run
    that names files or addresses which it does not bring along.
    """
    changes, inputs = journal.changes if changed else [], Inputs(journal.inputs())
    inputs.check_contained([journal.settings, *changes], journal.folder, journal.settings.get("weights"))
    settings: dict[str, Any] = DEFAULTS | journal.settings  # an old run has fewer
    for change in changes:
        settings |= change
    saved = inputs.by_name.items()
    missing = {name: value for name, value in saved if not (is_address(name) or Path(name).exists())}
    return settings | save_inputs(settings, missing, folder)


def save_inputs(settings: Mapping[str, Any], inputs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write pictures and latents below ``folder``; return the settings that name them, with their paths."""
    paths = {name: save_input(folder, name, value) for name, value in inputs.items()}

    def rename_mask(spec: str) -> str:
        file = find_mask_file(spec) or ""
        return spec.removesuffix(file) + paths[file] if file in paths else spec

    def rename(prompt: Prompt) -> Prompt:
        text = paths.get(prompt.text, prompt.text) if prompt.is_image else prompt.text
        return replace(prompt, text=text, where=rename_mask(prompt.where))

    values: dict[str, Any] = {}
    for name in settings.keys() & {"prompt", "negative"}:
        prompts = parse_parts(settings[name], name)
        renamed = [rename(prompt) for prompt in prompts]
        if renamed != prompts:
            values[name] = " | ".join(format_prompt(prompt, name) for prompt in renamed)
    if settings.get("init") in paths:
        values["init"] = paths[settings["init"]]
    if "mask" in settings:
        values["mask"] = rename_mask(settings["mask"])
    return values
