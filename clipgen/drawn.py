"""Starts that a prior draws: the best of its drawings, as CLIP ranks them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor
from torch.nn import functional as F

from clipgen.errors import ClipgenError
from clipgen.generators.protocol import Discrete
from clipgen.images.reading import to_tensor
from clipgen.inits import Scene, Start
from clipgen.losses.objectives import Goal
from clipgen.priors.sampling import Drawings, dalle
from clipgen.prompts import Prompt, positive_texts


class Dalle(Start):
    """The embedded transformer's best of 16; the run is firmly held near to it."""

    model = "mini"

    def __init__(self) -> None:
        self._drawings: dict[str, Drawings] = {}

    def check(self, prompts: Sequence[Prompt]) -> None:
        if not positive_texts(prompts):
            raise ClipgenError(f"init: {self.model}'s transformer draws words; add some to the prompt, or init=random")

    def latent(self, scene: Scene) -> Tensor:
        """The best drawing of the first span's prompts: its very tokens, where the generator has the same."""
        return self._begun(scene, self._first(scene))

    def _begun(self, scene: Scene, prompts: Sequence[Prompt]) -> Tensor:
        drawings = self._drawn(scene, prompts)
        side = drawings.tokens.shape[1] * scene.param.stride
        if drawings.generator == scene.param.name and scene.size == (side, side):
            return cast(Discrete, scene.param).place(drawings.tokens[:1].to(scene.param.device))
        return scene.param.encode(self._image(scene, prompts, scene.size))

    def goals(self, scene: Scene) -> list[Goal]:
        return scene.goals(lambda prompts, size: self._image(scene, prompts, size), strength=12.0, drafted=_words)

    def _first(self, scene: Scene) -> list[Prompt]:
        self.check(scene.prompts)  # they may have been changed since
        wanted = positive_texts(scene.prompts)
        first = min(prompt.span[0] for prompt in wanted)
        return [prompt for prompt in wanted if prompt.span[0] == first]

    def _image(self, scene: Scene, prompts: Sequence[Prompt], size: tuple[int, int]) -> Tensor:
        drawing = to_tensor(self._drawn(scene, prompts).images[0]).to(scene.param.device)
        side = min(size)
        square = F.interpolate(drawing, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        # What is at its border goes on: the paper, the sky, the snow.
        return F.pad(square, (left, size[1] - side - left, top, size[0] - side - top), mode="replicate")

    def _drawn(self, scene: Scene, prompts: Sequence[Prompt]) -> Drawings:
        text = _words(prompts)
        if text not in self._drawings:
            self._drawings[text] = self._draw(scene, text)
        return self._drawings[text]

    def _draw(self, scene: Scene, text: str) -> Drawings:
        where = str(scene.param.device)
        return dalle(text, model=self.model, seed=scene.seed, perceptor=scene.perceptor, device=where)


def _words(prompts: Sequence[Prompt]) -> str:
    return " and ".join(prompt.text for prompt in prompts if prompt.weight > 0)


class DalleMini(Dalle):
    """The same with DALL-E mini's published weights."""

    model = "dalle-mini"


class DalleMega(Dalle):
    """The same with DALL-E mega's."""

    model = "dalle-mega"
