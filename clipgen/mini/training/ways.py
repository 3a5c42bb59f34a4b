"""The ways in which a picture is made, as ``python -m clipgen.mini.training.evaluate`` names and measures them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

import clipgen
from clipgen.images.reading import to_image
from clipgen.mini import held_out

Way = Callable[..., Image.Image]
"""``way(prompts, i, **settings)``: a picture of the prompt with the number ``i``; the others may lend something."""


def drawing(i: int) -> Image.Image:
    """The held-out drawing with the number ``i``, beginning again after the last."""
    images, names = held_out()
    return to_image(images[i % len(names)])


def from_start(init: str) -> Way:
    """A picture of the prompt, from a start with this name."""

    def way(prompts: Sequence[str], i: int, **settings) -> Image.Image:
        return clipgen.generate(prompts[i], init=init, progress=False, **settings).image

    return way


def best_of(count: int) -> Way:
    """The transformer's best drawing of so many, by mini CLIP."""
    return lambda prompts, i, **_: clipgen.dalle(prompts[i], count).images[0]


def steer(prompts: Sequence[str], i: int, **settings) -> Image.Image:
    """Half of the steps towards the prompt before it, as a person would who then wants this one."""
    run = clipgen.Run(prompts[i - 1], **settings)
    for frame in run:
        if frame.step >= run.settings.steps / 2 and run.settings.prompt != prompts[i]:
            run.change(prompt=prompts[i])
    return run.image


def picture(prompts: Sequence[str], i: int, **settings) -> Image.Image:
    """From noise towards a held-out drawing alone, without a word; its name is the prompt of the set ``drawings``."""
    return clipgen.generate(drawing(i), init="random", progress=False, **settings).image


def half(prompts: Sequence[str], i: int, **settings) -> Image.Image:
    """The right one of two held-out drawings painted over with the prompt; this half is returned."""
    both = Image.new("RGB", (256, 128))
    both.paste(drawing(2 * i), (0, 0))
    both.paste(drawing(2 * i + 1), (128, 0))
    made = clipgen.generate(prompts[i], init=both, mask="right", size=both.size, progress=False, **settings).image
    return made.crop((128, 0, 256, 128))


WAYS: dict[str, Way] = {
    "noise": from_start("random"),
    "transformer": best_of(1),
    "rerank": best_of(16),
    "default": from_start("auto"),
    "steer": steer,
    "picture": picture,
    "half": half,
}
