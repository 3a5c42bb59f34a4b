"""The discrete VAE of DALL-E (Ramesh et al. 2021): 8 x 8 pixels to one token, by convolutions without norms.

The parameter names are those of OpenAI's ``dall_e`` package, so that its weights fit as they are.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.fast.frozen import ReLU, conv2d
from clipgen.generators.catalogue import Entry
from clipgen.generators.codebook import Codebook
from clipgen.generators.codes import Codes, clamp
from clipgen.precision import Block, Product
from clipgen.storage import remote, weights

EPSILON = 0.1  # how far the logit-Laplace distribution keeps pixels from 0 and 1


class Conv2d(Product):
    """A "same" convolution with OpenAI's parameter names ``w`` and ``b``; ``gain`` times that, if asked for."""

    padding_mode = "zeros"  # or circular, as of torch's own

    def __init__(self, inner: int, outer: int, size: int, gain: float = 1.0):
        super().__init__()
        w = torch.empty(outer, inner, size, size)
        self.w = nn.Parameter(nn.init.normal_(w, std=(inner * size * size) ** -0.5))
        self.b = nn.Parameter(torch.zeros(outer))
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        # The weights are fewer than what they make, and by a power of two, as OpenAI's gain is, they stay exact.
        w, b = (self.w, self.b) if self.gain == 1 else (self.gain * self.w, self.gain * self.b)
        around = w.shape[-1] // 2
        if self.padding_mode == "circular":
            return conv2d(F.pad(x, (around,) * 4, "circular"), w, b)
        return conv2d(x, w, b, padding=around)


class ResBlock(Block):
    """Four convolutions on a quarter of the channels, added to the input with a small gain.

    What enlarges the picture, ``resample``, stands behind the convolutions that see one place alone, though in OpenAI's
    nets it stands before the block: a quarter of the work and of the memory, for the same numbers.
    """

    def __init__(self, inner: int, outer: int, sizes: tuple[int, int, int, int], gain: float, resample: nn.Module):
        super().__init__()
        hidden = outer // 4
        widths = [inner, hidden, hidden, hidden, outer]
        self.resample = resample
        self.id_path = Conv2d(inner, outer, 1) if inner != outer else nn.Identity()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, size in enumerate(sizes):
            layers[f"relu_{i + 1}"] = ReLU()
            layers[f"conv_{i + 1}"] = Conv2d(widths[i], widths[i + 1], size, gain if i == 3 else 1.0)
            if i == 0:
                layers["resample"] = resample
        self.res_path = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(self.id_path(x)) + self.res_path(x)


def _groups(widths: list[int], blocks: int, sizes: tuple[int, int, int, int], grow: bool) -> OrderedDict:
    """Four groups of blocks; between two of them the picture is twice as large, or half."""
    gain = 1 / (4 * blocks) ** 2
    groups: OrderedDict[str, nn.Module] = OrderedDict()
    for g in range(4):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(blocks):
            inner = widths[g if i == 0 else g + 1]
            resample = nn.Upsample(scale_factor=2) if grow and g and i == 0 else nn.Identity()
            layers[f"block_{i + 1}"] = ResBlock(inner, widths[g + 1], sizes, gain, resample)
        if g < 3 and not grow:
            layers["pool"] = nn.MaxPool2d(2)
        groups[f"group_{g + 1}"] = nn.Sequential(layers)
    return groups


def _output(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(relu=ReLU(), conv=Conv2d(inner, outer, 1)))


class Encoder(nn.Module):
    """Mapped pixels (B, 3, H, W) to token logits (B, vocab_size, H/8, W/8)."""

    def __init__(self, n_hid: int, n_blk_per_group: int, vocab_size: int):
        super().__init__()
        widths = [n_hid, n_hid, 2 * n_hid, 4 * n_hid, 8 * n_hid]
        self.blocks = nn.Sequential(
            OrderedDict(
                input=Conv2d(3, n_hid, 7),
                **_groups(widths, n_blk_per_group, (3, 3, 3, 1), grow=False),
                output=_output(8 * n_hid, vocab_size),
            )
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.blocks(pixels)


class Decoder(nn.Module):
    """Token weights (B, vocab_size, h, w) to logit-Laplace means and log scales (B, 6, 8h, 8w)."""

    def __init__(self, n_init: int, n_hid: int, n_blk_per_group: int, vocab_size: int):
        super().__init__()
        widths = [n_init, 8 * n_hid, 4 * n_hid, 2 * n_hid, n_hid]
        self.blocks = nn.Sequential(
            OrderedDict(
                input=Conv2d(vocab_size, n_init, 1),
                **_groups(widths, n_blk_per_group, (1, 3, 3, 3), grow=True),
                output=_output(n_hid, 6),
            )
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.blocks(tokens)


class DVAE(Codes):
    """Encoder and decoder. OpenAI's: ``n_hid=256, n_blk_per_group=2, n_init=128, vocab_size=8192``."""

    stride = 8

    def __init__(self, n_hid: int = 256, n_blk_per_group: int = 2, n_init: int = 128, vocab_size: int = 8192):
        super().__init__()
        self.encoder = Encoder(n_hid, n_blk_per_group, vocab_size)
        self.decoder = Decoder(n_init, n_hid, n_blk_per_group, vocab_size)

    @property
    def codebook(self) -> Tensor:
        """(vocab_size, n_init): the decoder's first layer is a lookup of its input embedding."""
        return self.decoder.blocks.get_parameter("input.w")[:, :, 0, 0].T

    @property
    def decoding(self) -> nn.Module:
        return self.decoder.blocks[1:]

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, vocab_size, H/8, W/8)."""
        return self.encoder(map_pixels(images))

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to the embeddings (B, n_init, H/8, W/8) of the likeliest tokens."""
        return self.lookup(self.logits(images).argmax(1))

    def statistics(self, latent: Tensor) -> Tensor:
        """(B, n_init, h, w) embedded tokens to logit-Laplace means and log scales (B, 6, 8h, 8w)."""
        bias = self.decoder.blocks.get_parameter("input.b")
        return self.decoding(latent + bias[:, None, None])

    def decode(self, latent: Tensor) -> Tensor:
        """(B, n_init, h, w) embedded tokens to images (B, 3, 8h, 8w) in [0, 1]."""
        return clamp(unmap_pixels(self.statistics(latent)[:, :3].sigmoid()))


def load(name: str, entry: Entry, device: torch.device) -> Codebook:
    """OpenAI's dVAE from its two pickled halves."""
    halves = zip(("encoder", "decoder"), map(remote.fetch_weights, entry.files), strict=True)
    tensors = {f"{half}.{key}": value for half, file in halves for key, value in file.items()}
    return Codebook(name, weights.build_net(DVAE, entry.config, tensors, name).to(device), entry.side)


def map_pixels(images: Tensor) -> Tensor:
    return (1 - 2 * EPSILON) * images + EPSILON


def unmap_pixels(pixels: Tensor) -> Tensor:
    return (pixels - EPSILON) / (1 - 2 * EPSILON)
