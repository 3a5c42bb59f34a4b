"""Window decoding: what a convolution makes of a part of a latent is, but for the edge, that part of its picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from clipgen.generators.protocol import Parameterisation
from clipgen.setting import setting

# Places of the latent around a window, decoded with it and cut off. By then the embedded decoders have forgotten what
# is beyond: of 255 levels the dVAE is off by 0.04 in the mean, the VQGAN, which attends to every place, by 0.5.
HALO = 3
WHOLE = 8  # every so many steps all of the picture is decoded, and the first one


@dataclass(frozen=True)
class Window:
    """How much of a picture a step decodes. Views see all of it, and pull at the window alone."""

    window: float = setting(
        1.0,
        "side of the random part that a step decodes, as a share of the picture's: less to compute; 1: all of it",
        0.1,
        1,
    )

    def decode(
        self, param: Parameterisation, latent: Tensor, kept: Tensor | None, step: int, rng: torch.Generator, steps: int
    ) -> Tensor:
        """The picture of a latent at a step of ``steps``, (1, 3, H, W), with a gradient.

        But for a window it is ``kept``, that of the step before, without a gradient; the window's is divided by how
        often a place is in one, so that all places are pulled alike in the mean.
        """
        if self.window == 1 or kept is None or step % WHOLE == 0:
            return param.image(latent, step / steps, rng)
        rows, columns = (_cut(length, self.window, param.stride, rng) for length in latent.shape[-2:])
        decoded = param.image(latent[..., rows.around, columns.around], step / steps, rng)
        inside = decoded[..., rows.inside, columns.inside]
        often = (rows.often[:, None] * columns.often).to(inside.device)
        inside.register_hook(lambda gradient: gradient / often)
        picture = kept.clone()
        picture[..., rows.place, columns.place] = inside
        return picture


class _Cut(NamedTuple):
    """A window along one side."""

    around: slice  # places of the latent, with the halo
    inside: slice  # pixels of what is decoded, without it
    place: slice  # where they are in the picture
    often: Tensor  # how often each of them is in a window, from 0 to 1


def _cut(length: int, share: float, stride: int, rng: torch.Generator) -> _Cut:
    """A window of a latent's side of ``length`` places. Those that would be beyond an edge are moved up to it."""
    wide = max(1, round(share * length))
    starts = torch.arange(1 - wide, length).clamp(0, length - wide)
    start = int(starts[torch.randint(len(starts), (), generator=rng)])
    low, high = max(0, start - HALO), min(length, start + wide + HALO)
    places = torch.arange(start, start + wide)[:, None]
    often = ((starts <= places) & (places < starts + wide)).float().mean(1)
    inside, place = (slice(stride * at, stride * (at + wide)) for at in (start - low, start))
    return _Cut(slice(low, high), inside, place, often.repeat_interleave(stride))
