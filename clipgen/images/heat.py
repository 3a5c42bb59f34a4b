"""Where something is strong, laid over a picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

COOL, WARM = (16, 20, 40), (255, 96, 32)


def heated(picture: Image.Image, strength: np.ndarray) -> Image.Image:
    """A picture, dimmed to grey, with ``strength`` (H, W), 0 or more, glowing over it as far as its 99th percentile."""
    amount = np.asarray(strength, np.float32)
    amount = (amount / max(float(np.quantile(amount, 0.99)), 1e-30)).clip(0, 1)[..., None]
    grey = np.asarray(picture.convert("L"), np.float32)[..., None] / 255
    ground = np.array(COOL) + 0.4 * grey * (255 - np.array(COOL))
    glowing = ground + amount * (np.array(WARM) * (0.6 + 0.4 * grey) - ground)
    return Image.fromarray(glowing.clip(0, 255).astype(np.uint8))
