"""A camera that moves from frame to frame: ``zoom=1.02, x=0.01, angle=1@50-100``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clipgen.errors import ClipgenError
from clipgen.setting import NUMBER, SPAN

_TERM = re.compile(rf"(zoom|x|y|angle)\s*=\s*({NUMBER})\s*(?:{SPAN})?")
_BOUNDS = {"zoom": (0.5, 2.0), "x": (-0.5, 0.5), "y": (-0.5, 0.5), "angle": (-90.0, 90.0)}


@dataclass(frozen=True)
class Camera:
    """Moves, each (name, how much a frame, first step, step after the last)."""

    moves: tuple[tuple[str, float, int, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Camera:
        """What the camera does: ``zoom``, a factor (above 1 moves in); ``x``, ``y``, right and down in shares of the
        picture; ``angle``, degrees clockwise; each for one frame, and with ``@from-to`` only from the first of these
        steps to before the second. It is the camera that moves: what it sees goes the other way.

        Raises ClipgenError for anything else, for moves that leave the picture and for spans without a step.
        """
        moves = []
        for part in filter(None, map(str.strip, text.split(","))):
            found = _TERM.fullmatch(part)
            value = float(found[2]) if found else math.nan
            first, last = (int(found[3] or 0), int(found[4]) if found[4] else math.inf) if found else (0, 0)
            if not found or not _BOUNDS[found[1]][0] <= value <= _BOUNDS[found[1]][1] or first >= last:
                bounds = ", ".join(f"{name} from {low:g} to {high:g}" for name, (low, high) in _BOUNDS.items())
                raise ClipgenError(f"camera={text!r}: {part!r} is no move; write 'zoom=1.02, x=0.01@0-50': {bounds}")
            moves.append((found[1], value, first, last))
        return cls(tuple(moves))

    def __bool__(self) -> bool:
        return bool(self.moves)

    def at(self, step: int) -> dict[str, float]:
        """The move of a frame at a step: zoom, x, y, angle."""
        now = {"zoom": 1.0, "x": 0.0, "y": 0.0, "angle": 0.0}
        for name, value, first, last in self.moves:
            if first <= step < last:
                now[name] = now[name] * value if name == "zoom" else now[name] + value
        return now

    def origin(self, step: int, size: tuple[int, int]) -> Tensor:
        """(2, 3), affine: where each place of a picture of (H, W) was before its move, from -1 to 1 across it."""
        now, ratio = self.at(step), size[0] / size[1]
        angle = math.radians(now["angle"])
        cos, sin = math.cos(angle) / now["zoom"], math.sin(angle) / now["zoom"]
        return torch.tensor([[cos, -sin * ratio, 2 * now["x"]], [sin / ratio, cos, 2 * now["y"]]])

    def move(self, images: Tensor, step: int) -> Tensor:
        """(B, 3, H, W) as the camera sees them after its move; what comes in at the edges is mirrored."""
        b, _, height, width = images.shape
        theta = self.origin(step, (height, width)).expand(b, 2, 3).to(images)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
        return moved.clamp(0, 1)
