"""A camera that moves from frame to frame: ``zoom=1.02, x=0.01, angle=1@50-100``."""

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
    """Moves, each (name, amount per frame, first step, step after the last)."""

    moves: tuple[tuple[str, float, int, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Camera":
        """Parse moves of the camera; what it sees moves the other way.

        Args:
            text: ``zoom``, a factor (above 1 moves in); ``x``, ``y``, right and down in shares of the picture;
                ``angle``, degrees clockwise; all per frame, and with ``@10-50`` only in steps 10 to 49.

        Raises:
            ClipgenError: Anything else, moves that leave the picture, or spans without a step.
        """
        moves = []
        for part in filter(None, map(str.strip, text.split(","))):
            match = _TERM.fullmatch(part)
            name, value, first, last = match.groups() if match else ("zoom", "nan", None, None)
            move = name, float(value), int(first or 0), float(last or math.inf)
            low, high = _BOUNDS[name]
            if not (low <= move[1] <= high and move[2] < move[3]):
                bounds = ", ".join(f"{name} from {low:g} to {high:g}" for name, (low, high) in _BOUNDS.items())
                raise ClipgenError(f"camera={text!r}: {part!r} is not a move; write 'zoom=1.02, x=0.01@0-50': {bounds}")
            moves.append(move)
        return cls(tuple(moves))

    def __bool__(self) -> bool:
        return bool(self.moves)

    def at(self, step: int) -> dict[str, float]:
        """Return the move of a frame at a step: zoom, x, y, angle."""
        now = {"zoom": 1.0, "x": 0.0, "y": 0.0, "angle": 0.0}
        for name, value, first, last in self.moves:
            if first <= step < last:
                now[name] = now[name] * value if name == "zoom" else now[name] + value
        return now

    def inverse_affine(self, step: int, size: tuple[int, int]) -> Tensor:
        """Return the affine matrix (2, 3) from output to input coordinates in [-1, 1], as for ``F.affine_grid``."""
        now, ratio = self.at(step), size[0] / size[1]
        angle = math.radians(now["angle"])
        cos, sin = math.cos(angle) / now["zoom"], math.sin(angle) / now["zoom"]
        return torch.tensor([[cos, -sin * ratio, 2 * now["x"]], [sin / ratio, cos, 2 * now["y"]]])

    def move(self, images: Tensor, step: int) -> Tensor:
        """Return images (B, 3, H, W) as the camera sees them after its move, mirrored beyond their edges."""
        b, _, height, width = images.shape
        theta = self.inverse_affine(step, (height, width)).expand(b, 2, 3).to(images)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
        return images.clamp(0, 1)
