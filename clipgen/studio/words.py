"""What the shown frame says to the run's CLIP: its words, and where in it a text is found."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from clipgen.inspect.describe import describe
from clipgen.inspect.explain import explain
from clipgen.runs.run import Run
from clipgen.studio.parts import Fold
from clipgen.studio.pictures import encode
from clipgen.studio.preview import Preview


class InWords(Fold):
    """While it is open, each shown frame has its words under the timeline; a text can be looked for in it.

    ``run``: the run whose film is shown, for its perceptor, or None: then mini CLIP looks.
    """

    def __init__(self, preview: Preview, run: Callable[[], Run | None], guard: Callable):
        self._preview, self._run = preview, run
        self.said = widgets.HTML(layout={"display": "none"}).add_class("clipgen-words")
        self._text = widgets.Text(description="Where is", placeholder="what to look for in the frame: apple")
        self._text.add_class("clipgen-sought")
        self._where = widgets.ToggleButton(description="Show where", icon="search")
        self.map = widgets.Image(format="jpeg", layout={"display": "none"}).add_class("clipgen-where")
        preview.under.children = [*preview.under.children, self.said]
        super().__init__("In words, and where", [widgets.HBox([self._text, self._where]), self.map])
        look = guard(lambda _: self._see())
        for part in (self.button, self._where, self._text, preview.image):
            part.observe(look, "value")

    def _see(self) -> None:
        """Look at the shown frame again."""
        asked = self._where.value and self._text.value.strip()
        self.map.layout.display = "" if asked else "none"
        self.said.layout.display = "" if self.button.value else "none"
        if not (self.button.value and self._preview.journal):
            return
        run, (journal, step), picture = self._run(), self._preview.shown, self._preview.picture
        eyes: dict[str, Any] = {}
        if run and run.journal is journal:
            eyes = {"perceptor": run.models.perceptors[0][0]}
        said = describe(picture, **eyes)
        who = eyes["perceptor"].name if eyes else "mini"
        heard = f"<b>{html.escape(str(said))}</b> <small>step {step}, as {html.escape(who)} sees it; "
        self.said.value = f"{heard}cosine {said.cosine:.2f}</small>"
        if asked:
            self.map.value = encode(explain(picture, asked, **eyes).overlay, 512)
