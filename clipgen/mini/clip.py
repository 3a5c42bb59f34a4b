"""mini CLIP and the evaluator: perceptors small enough to ship, trained by ``clipgen.mini.training``."""

from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from clipgen import fast
from clipgen.clip import Perceptor
from clipgen.clip.tokenizer import VOCABULARY_SIZE, encode
from clipgen.images.reading import to_tensor
from clipgen.mini import WEIGHTS
from clipgen.storage import weights


class Attention(nn.Module):
    """Self-attention as plain products: on CPU in bf16 it trains twice as fast as the fused kernel."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask[:, None, None], -1e4).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, width))


class TextTower(nn.Module):
    """Embeds tokens (P, L), padded with -1, as (P, dim): a factorised embedding, a few layers, mean pooling."""

    def __init__(self, dim: int, embed: int = 48, width: int = 192, layers: int = 3, heads: int = 6, context: int = 32):
        super().__init__()
        self.context_length = context
        self.tokens = nn.Embedding(VOCABULARY_SIZE, embed)
        self.widen = nn.Linear(embed, width)
        self.positions = nn.Parameter(nn.init.normal_(torch.empty(context, width), std=0.01))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "attention": Attention(width, heads),
                    "norm2": nn.LayerNorm(width),
                    "mlp": nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)),
                }
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, dim, bias=False)

    def features(self, tokens: Tensor) -> Tensor:
        """Return pooled features (P, width), before the projection."""
        mask = tokens >= 0
        x = self.widen(self.tokens(tokens.clamp(min=0))) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = x + block["attention"](block["norm1"](x), mask)  # type: ignore[index]
            x = x + block["mlp"](block["norm2"](x))  # type: ignore[index]
        weight = mask[..., None] / mask.sum(1).clamp(min=1)[:, None, None]
        return (self.norm(x) * weight).sum(1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.project(self.features(tokens))

    def tokenize(self, texts: list[str]) -> Tensor:
        """Return the tokens (P, L) int64 of texts, padded with -1; longer texts are cut at the context."""
        rows = [torch.tensor(encode(text)[: self.context_length] or [VOCABULARY_SIZE - 1]) for text in texts]
        return pad_sequence(rows, batch_first=True, padding_value=-1)


class ResBlock(nn.Module):
    """Two 3x3 convolutions around a skip. SiLU, because a smooth net has smoother gradients to follow."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.skip = (
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            if (in_channels, stride) != (out_channels, 1)
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.norm2(self.conv2(y)) + self.skip(x))


class ImageTower(nn.Module):
    """Embeds images (B, 3, S, S), S a multiple of 16, as (B, dim); ``layout``: width of a branch for positions."""

    def __init__(
        self,
        dim: int,
        widths: tuple[int, ...] = (32, 64, 128, 256),
        depths: tuple[int, ...] = (1, 2, 2, 2),
        layout: int = 0,
    ):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 4, 2, 1)
        stages, in_channels = [], widths[0]
        for i, (width, depth) in enumerate(zip(widths, depths)):
            blocks = [ResBlock(in_channels if j == 0 else width, width, 2 if i and j == 0 else 1) for j in range(depth)]
            stages.append(nn.Sequential(*blocks))
            in_channels = width
        self.stages = nn.ModuleList(stages)
        self.project = nn.Linear(in_channels, dim, bias=False)
        self.layout = nn.Sequential()
        if layout:
            reduce = [nn.AdaptiveAvgPool2d(4), nn.Conv2d(in_channels, in_channels // 4, 1), nn.SiLU(), nn.Flatten()]
            last = nn.Linear(layout, in_channels)
            for parameter in last.parameters():
                nn.init.zeros_(parameter)  # so that training begins with the mean alone
            self.layout = nn.Sequential(*reduce, nn.Linear(4 * in_channels, layout), nn.SiLU(), last)

    def features(self, images: Tensor, stages: int | None = None) -> list[Tensor]:
        """Return the map after each of the first ``stages`` stages (by default all), finest first."""
        x, maps = self.stem(images * 2 - 1), []
        for stage in self.stages[:stages]:
            maps.append(x := stage(x))
        return maps

    def forward(self, images: Tensor) -> Tensor:
        last = self.features(images)[-1]
        pooled = last.mean((2, 3))
        return self.project(pooled + self.layout(last) if len(self.layout) else pooled)


class MiniCLIP(nn.Module):
    """Both towers and their temperature. ``config``: keyword arguments of the towers."""

    def __init__(self, dim: int = 256, text: dict | None = None, image: dict | None = None):
        super().__init__()
        self.text = TextTower(dim, **(text or {}))
        self.image = ImageTower(dim, **(image or {}))
        self.logit_scale = nn.Parameter(torch.tensor(2.7))

    def embed_text(self, texts: list[str]) -> Tensor:
        """Return unit-norm embeddings (P, dim)."""
        tokens = self.text.tokenize(texts).to(self.logit_scale.device)
        return F.normalize(self.text(tokens).float(), dim=-1)

    def encode_image(self, images: Tensor) -> Tensor:
        """Return unit-norm embeddings (B, dim) of images (B, 3, S, S) in [0, 1]."""
        return F.normalize(self.image(fast.channels_last(images)).float(), dim=-1)

    def fits(self, text: str) -> bool:
        """Return whether a text is within the context."""
        return len(encode(text)) <= self.text.context_length

    @property
    def feature_layers(self) -> list[nn.Module]:
        return [*self.image.stages[-2:]]


class EvaluatorNet(nn.Module):
    """The evaluator, which judges, and guides no picture unless it is named as the perceptor.

    Built unlike mini CLIP on purpose: a plain stack of convolutions and maximum pooling without skips, a bag of words
    instead of a transformer, trained without adversaries, so that their failure modes differ. ``embed`` numbers
    a word, ``width`` channels in the first convolution.
    """

    def __init__(self, dim: int = 256, embed: int = 48, width: int = 32):
        super().__init__()
        self.words = nn.EmbeddingBag(VOCABULARY_SIZE, embed, mode="mean")
        self.text = nn.Sequential(nn.Linear(embed, 512), nn.GELU(), nn.Linear(512, dim))
        layers: list[nn.Module] = []
        in_channels = 3
        for out_channels in (width, 2 * width, 4 * width, 8 * width):
            layers += [
                nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            in_channels = out_channels
        layers += [nn.Conv2d(in_channels, in_channels, 3, 1, 1, bias=False), nn.BatchNorm2d(in_channels), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.image = nn.Linear(4 * in_channels, dim)
        self.logit_scale = nn.Parameter(torch.tensor(2.7))

    def embed_text(self, texts: list[str]) -> Tensor:
        """Return unit-norm embeddings (P, dim)."""
        rows, device = [encode(text) or [VOCABULARY_SIZE - 1] for text in texts], self.words.weight.device
        starts = torch.tensor([0, *map(len, rows[:-1])], device=device).cumsum(0)
        bags = self.words(torch.tensor([token for row in rows for token in row], device=device), starts)
        return F.normalize(self.text(bags).float(), dim=-1)

    def encode_image(self, images: Tensor) -> Tensor:
        """Return unit-norm embeddings (B, dim) of images (B, 3, 64, 64) in [0, 1]."""
        maps = F.adaptive_avg_pool2d(self.convolutions(images * 2 - 1), 2)
        return F.normalize(self.image(maps.flatten(1)).float(), dim=-1)

    def fits(self, text: str) -> bool:
        """Return True: a bag holds any number of words."""
        return True

    @property
    def feature_layers(self) -> list[nn.Module]:
        return [self.convolutions[-5], self.convolutions[-1]]  # after the ReLUs of the last two stages


class BuiltinPerceptor(Perceptor):
    """A model of 64 x 64 pixels that is always there: ``mini`` CLIP or the ``evaluator``.

    mini CLIP knows emoji art and plain scenes. One so small is prone to adversarial images.
    """

    size = 64
    default_init = "dalle"
    nets: ClassVar = {"mini": ("clip.safetensors", MiniCLIP), "evaluator": ("judge.safetensors", EvaluatorNet)}

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        self.name, self.device = name, torch.device(device)
        file, build = self.nets[name]
        tensors, config = weights.load_weights(WEIGHTS / file)
        self.net = weights.build_net(build, config, tensors, name).to(device).eval().requires_grad_(False)
        self.scale = float(self.net.logit_scale.exp())
        fast.optimize_for(self.net.image, self.device, save_memory=False)

    def set_precision(self, precision: str) -> None:
        super().set_precision(precision)
        self.cast_weights(self.net.image)

    @classmethod
    def knows(cls, name: str) -> bool:
        return name in cls.nets

    @property
    def feature_layers(self) -> list[nn.Module]:
        return self.net.feature_layers

    def fits(self, text: str) -> bool:
        return self.net.fits(text)

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Tensor:
        return self.net.embed_text(texts)

    def encode_image(self, images: Tensor, patch_indices: Tensor | None = None) -> Tensor:
        return self.compute(self.net.encode_image, images)

    @torch.no_grad()
    def embed_image(self, pictures: list[Image.Image]) -> Tensor:
        pixels = torch.cat([to_tensor(picture, (self.size, self.size)) for picture in pictures])
        return self.encode_image(pixels.to(self.device))
