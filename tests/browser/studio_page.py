"""The Studio on a page, used as a person uses it: by what can be read, clicked and typed."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from typing import Any

from PIL import Image
from playwright.sync_api import Locator, Page, expect
from shared_places import PATIENCE

# When a control was pressed, and when its answer was on the page, in the page's own milliseconds.
RECORD = """root => {
    const seen = window.seen = {};
    new MutationObserver(() => { seen.picture ??= performance.now(); })
        .observe(root.querySelector(".clipgen-preview"), {attributes: true, attributeFilter: ["src"]});
    new MutationObserver(() => {
        if ([...root.querySelectorAll("button")].some(button => button.textContent.trim() === "Resume"))
            seen.pause ??= performance.now();
    }).observe(root, {childList: true, characterData: true, subtree: true});
    root.addEventListener("pointerdown", () => {
        delete seen.picture, delete seen.pause;
        seen.pressed = performance.now();
    }, true);
}"""


class StudioPage:
    """The Studio of a page, as soon as it is there."""

    def __init__(self, page: Page):
        self.page = page
        self.root = page.locator(".clipgen-studio").first
        expect(self.root).to_be_visible()
        self.preview = self.root.locator("img.clipgen-preview")
        expect(self.preview).to_be_attached()
        self.root.evaluate(RECORD)

    def button(self, name: str) -> Locator:
        # Not by role: the glyph of the icon is part of the accessible name.
        return self.root.locator("button", has_text=re.compile(rf"^\s*{name}( \(\d+ changed\))?\s*$"))

    def fill(self, label: str, value: str) -> None:
        """Type into the field with this label, and leave it."""
        field = self.root.get_by_label(label, exact=True)
        field.fill(value)
        field.press("Tab")

    def choose(self, label: str, name: str, content: bytes) -> None:
        """Press an upload button, and choose a file of this content."""
        with self.page.expect_file_chooser() as chooser:
            self.button(label).click()
        chooser.value.set_files({"name": name, "mimeType": "image/png", "buffer": content})

    def wait_for_picture(self) -> None:
        self.page.wait_for_function("it => it.naturalWidth > 0", arg=self.preview.element_handle())

    def generate(self, prompt: str, steps: int) -> None:
        """Start a run and wait for its first picture."""
        self.fill("Prompt 1", prompt)
        self.fill("Steps", str(steps))
        self.button("Generate").click()
        self.wait_for(lambda: f"/{steps} " in self.status and self.step)

    def wait_for(self, true: Callable[[], Any]) -> None:
        """Look until it is true."""
        until = time.monotonic() + PATIENCE / 1000
        while not true():
            assert time.monotonic() < until, "waited in vain"
            self.page.wait_for_timeout(50)

    @property
    def status(self) -> str:
        return self.root.locator(".clipgen-status").inner_text()

    @property
    def step(self) -> int:
        found = re.search(r"step (\d+)/", self.status)
        return int(found[1]) if found else 0

    @property
    def score(self) -> float:
        found = re.search(r"CLIP score (-?[\d.]+)", self.status)
        assert found, self.status
        return float(found[1])

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: self.step >= step)

    def shown(self) -> Image.Image:
        """What the preview looks like on the screen."""
        return Image.open(io.BytesIO(self.preview.screenshot())).convert("RGB")

    def move_timeline(self, share: float) -> None:
        """Click on the timeline: 0 is its first frame, 1 its last."""
        track = self.root.locator(".widget-slider").filter(has_text=re.compile("Frame")).locator(".slider").first
        expect(track).to_be_visible()
        box = track.bounding_box()
        assert box
        track.click(position={"x": min(max(share * box["width"], 1), box["width"] - 1), "y": box["height"] / 2})

    def seconds_to_answer(self, answer: str) -> float:
        """From the last press in the Studio to another picture, or to the other word for Pause."""
        seen = self.page.evaluate("window.seen")
        return (seen[answer] - seen["pressed"]) / 1000
