"""TiTok (Yu et al. 2024): a picture of 256 x 256 as 32 to 128 tokens in a row, instead of a grid.

Two transformers, each over the picture's patches and the tokens: one reads the tokens off the patches, the other the
patches off the tokens. In most checkpoints the second gives logits over the codes of MaskGIT's VQGAN, whose decoder
paints. Parameter names are those of bytedance/1d-tokenizer, but for the painter's: see ``load``.
"""

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.generators import Entry, clamp, vqgan
from clipgen.generators.codebook import VQBase
from clipgen.precision import CheckpointedBlock
from clipgen.storage import remote, weights

PATCH = 16
PIXEL_CODES, PIXEL_DIM = 1024, 256  # of the VQGAN that paints


class Block(CheckpointedBlock, ResidualAttentionBlock):
    """A transformer's layer, norms first."""


class Tower(nn.Module):
    """A transformer over a class token, the patches and the tokens."""

    def __init__(self, size: tuple[int, int, int], patches: int, tokens: int):
        super().__init__()
        width, layers, heads = size
        self.width, self.patches = width, patches
        self.class_embedding = nn.Parameter(torch.empty(1, width))
        self.positional_embedding = nn.Parameter(torch.empty(patches + 1, width))
        self.latent_token_positional_embedding = nn.Parameter(torch.empty(tokens, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def attend(self, patches: Tensor, tokens: Tensor) -> Tensor:
        """Return the last features (B, 1 + p + n, width) of patches (B, p, width) and tokens (B, n, width)."""
        first = self.class_embedding.expand(len(patches), 1, -1)
        x = torch.cat([first, patches], 1) + self.positional_embedding
        x = self.ln_pre(torch.cat([x, tokens + self.latent_token_positional_embedding], 1))
        for block in self.transformer:
            x = block(x)
        return self.ln_post(x)


class Encoder(Tower):
    """Pixels to tokens."""

    def __init__(self, dim: int, legacy: bool, *shape: Any):
        super().__init__(*shape)
        self.legacy = legacy
        self.patch_embed = nn.Conv2d(3, self.width, PATCH, PATCH)
        self.conv_out = nn.Conv2d(self.width, dim, 1)

    def forward(self, images: Tensor, queries: Tensor) -> Tensor:
        """Return (B, dim, 1, n) of (B, 3, H, W); ``queries``: (n, width), what the tokens start from."""
        features = self.attend(self.patch_embed(images).flatten(2).mT, queries.expand(len(images), -1, -1))
        tokens = features[:, 1 + self.patches :]
        # The first checkpoints were trained with this reshape, which mixes tokens and channels.
        tokens = tokens.reshape(len(tokens), self.width, -1, 1) if self.legacy else tokens.mT[..., None]
        return self.conv_out(tokens).mT


class Decoder(Tower):
    """Tokens to logits over the painter's codes (B, 1024, h, w), or to pixels."""

    def __init__(self, dim: int, legacy: bool, *shape: Any):
        super().__init__(*shape)
        width = self.width
        self.decoder_embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        if legacy:
            self.ffn = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, PIXEL_CODES, 1))
        else:
            self.ffn = nn.Sequential(nn.Conv2d(width, 3 * PATCH**2, 1))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        patches = self.mask_token.expand(len(latent), self.patches, -1)
        features = self.attend(patches, self.decoder_embed(latent.flatten(2).mT))[:, 1 : 1 + self.patches]
        side = round(self.patches**0.5)
        features = self.ffn(features.mT.unflatten(2, (side, side)))
        if len(self.ffn) > 1:
            return features
        features = features.unflatten(1, (-1, 3)).transpose(1, 2).flatten(1, 2)  # published as row, column and colour
        return self.conv_out(F.pixel_shuffle(features, PATCH))


class TiTok(VQBase):
    """Encoder, codebook and decoders.

    Args:
        encoder, decoder: Width, layers and heads of each.
        tokens: How many a picture has.
        codes: Number and length of the codes.
        legacy: Whether the decoder gives logits over the painter's codes, and codes have length 1.
        size: Width and height of a picture.
        widths: Channels of the painter's levels, finest first.
    """

    has_logits = False
    stride = PATCH

    def __init__(
        self,
        encoder: tuple[int, int, int],
        decoder: tuple[int, int, int],
        tokens: int,
        codes: tuple[int, int] = (4096, 12),
        legacy: bool = True,
        size: int = 256,
        widths: tuple[int, ...] = (128, 128, 256, 256, 512),
    ):
        super().__init__()
        self.sequence, self.legacy = tokens, legacy
        patches = (size // PATCH) ** 2
        self.encoder = Encoder(codes[1], legacy, encoder, patches, tokens)
        self.decoder = Decoder(codes[1], legacy, decoder, patches, tokens)
        self.latent_tokens = nn.Parameter(torch.empty(tokens, self.encoder.width))
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(*codes)})
        if legacy:
            self.pixel_quantize = nn.ModuleDict({"embedding": nn.Embedding(PIXEL_CODES, PIXEL_DIM)})
            self.pixel_decoder = vqgan.Decoder(PIXEL_DIM, [*widths, widths[-1]], 3, 2, [False] * len(widths), "maskgit")

    @property
    def codebook(self) -> Tensor:
        return self.quantize["embedding"].get_parameter("weight")

    def normalize(self, latent: Tensor) -> Tensor:
        return F.normalize(latent, dim=1) if self.legacy else latent

    def encode(self, images: Tensor) -> Tensor:
        """Return the latent (B, dim, 1, n) of (B, 3, size, size), not quantised."""
        return self.encoder(images, self.latent_tokens)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the images (B, 3, size, size) of a latent."""
        images = self.decoder(latent)
        if self.legacy:
            codes = self.pixel_quantize["embedding"].get_parameter("weight")
            images = self.pixel_decoder((images.softmax(1).permute(0, 2, 3, 1) @ codes).permute(0, 3, 1, 2))
        return clamp(images)


def load(name: str, entry: Entry, device: torch.device) -> TiTok:
    """Load a published tokenizer; ``entry.config`` has the arguments of ``TiTok``."""
    tensors = {}
    for key, value in remote.fetch_weights(entry.files[0]).items():  # the painter's layers get the names of vqgan.py
        key = key.replace(".mid.0.", ".mid.block_1.").replace(".mid.1.", ".mid.block_2.")
        tensors[key.replace(".upsample_conv.", ".upsample.conv.")] = value
    net = weights.build_net(TiTok, entry.config, tensors, name)
    if net.legacy:  # so that the nearest code by angle is the nearest by distance
        net.codebook.data = F.normalize(net.codebook.data.float(), dim=-1)
    return net
