"""The discrete VAE of DALL-E (Ramesh et al. 2021): 8 x 8 pixels to one token, by convolutions without norms.

Parameter names are those of OpenAI's ``dall_e`` package, but for convolutions' ``w`` and ``b``: see ``from_openai``.
"""

import re
from collections import OrderedDict

import torch
from torch import Tensor, nn

from clipgen.generators import Entry, clamp
from clipgen.generators.codebook import VQBase
from clipgen.precision import CheckpointedBlock, Upsample
from clipgen.storage import remote, weights

EPSILON = 0.1  # how far the logit-Laplace distribution keeps pixels from 0 and 1


def conv(in_channels: int, out_channels: int, size: int) -> nn.Conv2d:
    """Return a "same" convolution, initialised as OpenAI's."""
    layer = nn.Conv2d(in_channels, out_channels, size, padding=size // 2)
    nn.init.normal_(layer.weight, std=(in_channels * size * size) ** -0.5)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class ResBlock(CheckpointedBlock):
    """Four convolutions on a quarter of the channels, added to the input with a small gain."""

    # OpenAI's networks enlarge the image before the block. Doing so after the 1x1 convolutions is a quarter of the work
    # and of the memory, for the same numbers.

    def __init__(
        self, in_channels: int, out_channels: int, sizes: tuple[int, int, int, int], gain: float, upsample: bool
    ):
        super().__init__()
        hidden = out_channels // 4
        self.gain = gain
        self.resample = Upsample() if upsample else nn.Identity()
        self.id_path = conv(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.res_path = nn.Sequential(
            OrderedDict(
                relu_1=nn.ReLU(),
                conv_1=conv(in_channels, hidden, sizes[0]),
                resample=self.resample,
                relu_2=nn.ReLU(),
                conv_2=conv(hidden, hidden, sizes[1]),
                relu_3=nn.ReLU(),
                conv_3=conv(hidden, hidden, sizes[2]),
                relu_4=nn.ReLU(),
                conv_4=conv(hidden, out_channels, sizes[3]),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.resample(self.id_path(x)), self.res_path(x), alpha=self.gain)


class Blocks(nn.Module):
    """The encoder or the decoder: a convolution of size ``kernel_size``, four groups of blocks, a 1x1 convolution."""

    def __init__(
        self, in_channels: int, kernel_size: int, widths: list[int], out_channels: int, num_blocks: int, decodes: bool
    ):
        super().__init__()
        sizes, gain = (1, 3, 3, 3) if decodes else (3, 3, 3, 1), 1 / (4 * num_blocks) ** 2
        layers: OrderedDict[str, nn.Module] = OrderedDict(input=conv(in_channels, widths[0], kernel_size))
        for g in range(4):
            group: OrderedDict[str, nn.Module] = OrderedDict()
            for i in range(num_blocks):
                width = widths[g if i == 0 else g + 1]
                group[f"block_{i + 1}"] = ResBlock(width, widths[g + 1], sizes, gain, decodes and g > 0 and i == 0)
            if g < 3 and not decodes:
                group["pool"] = nn.MaxPool2d(2)
            layers[f"group_{g + 1}"] = nn.Sequential(group)
        layers["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=conv(widths[-1], out_channels, 1)))
        self.blocks = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class DVAE(VQBase):
    """Encoder and decoder; the defaults are OpenAI's."""

    stride = 8
    decoder: Blocks

    def __init__(self, n_hid: int = 256, n_blk_per_group: int = 2, n_init: int = 128, vocab_size: int = 8192):
        super().__init__()
        widths = [n_hid, 2 * n_hid, 4 * n_hid, 8 * n_hid]
        self.encoder = Blocks(3, 7, [n_hid, *widths], vocab_size, n_blk_per_group, decodes=False)
        self.decoder = Blocks(vocab_size, 1, [n_init, *widths[::-1]], 6, n_blk_per_group, decodes=True)

    @property
    def codebook(self) -> Tensor:
        """The codes (vocab_size, n_init): the decoder's first layer is a lookup."""
        return self.decoder.blocks.get_parameter("input.weight")[:, :, 0, 0].T

    @property
    def decoder_layers(self) -> nn.Sequential:
        return self.decoder.blocks[1:]

    def logits(self, images: Tensor) -> Tensor:
        """Return the token logits (B, vocab_size, H/8, W/8) of (B, 3, H, W)."""
        return self.encoder(map_pixels(images))

    def encode(self, images: Tensor) -> Tensor:
        """Return the codes (B, n_init, H/8, W/8) of the likeliest tokens of (B, 3, H, W)."""
        return self.lookup(self.logits(images).argmax(1))

    def statistics(self, latent: Tensor) -> Tensor:
        """Return the logit-Laplace means and log scales (B, 6, 8h, 8w) of codes (B, n_init, h, w)."""
        bias = self.decoder.blocks.get_parameter("input.bias")
        return self.decoder_layers(latent + bias[:, None, None])

    def decode(self, latent: Tensor) -> Tensor:
        """Return the images (B, 3, 8h, 8w) of codes (B, n_init, h, w)."""
        return clamp(unmap_pixels(self.statistics(latent)[:, :3].sigmoid()))


def load(name: str, entry: Entry, device: torch.device) -> DVAE:
    """Load OpenAI's dVAE from its two pickled halves."""
    halves = zip(("encoder", "decoder"), map(remote.fetch_weights, entry.files), strict=True)
    tensors = {f"{half}.{key}": value for half, file in halves for key, value in file.items()}
    return weights.build_net(DVAE, entry.config, from_openai(tensors), name)


def from_openai(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the names that torch gives a convolution's."""
    return {re.sub(r"\.b$", ".bias", re.sub(r"\.w$", ".weight", key)): value for key, value in tensors.items()}


def map_pixels(images: Tensor) -> Tensor:
    return (1 - 2 * EPSILON) * images + EPSILON


def unmap_pixels(pixels: Tensor) -> Tensor:
    return (pixels - EPSILON) / (1 - 2 * EPSILON)
