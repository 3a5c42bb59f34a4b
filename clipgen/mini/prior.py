"""DALL-E's second stage, small: one decoder-only transformer over text and image tokens (Ramesh et al. 2021, 2.2).

It reads ``context`` text tokens, then writes ``side`` x ``side`` image tokens, row by row, each from all before it.
At 20 + 256 positions every token can see all earlier ones; the paper's sparse masks are for 256 + 1,024.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen import device as devices
from clipgen.clip.tokenizer import encode
from clipgen.mini import WEIGHTS
from clipgen.mini.clip import BuiltinPerceptor
from clipgen.priors.sampling import KVCache, TokenPredictor, apply_guidance
from clipgen.storage import weights

AT_ONCE = 64  # tokens, of all pictures together, that are read in hardly more time than one of each


class Block(nn.Module):
    """Causal self-attention, then two dense layers, each on a normed copy and added.

    Queries and keys are normed (Henry et al. 2020), and the activation is a squared ReLU (So et al. 2021).
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> tuple[Tensor, Tensor]:
        """Return features (B, n, width), as the input, and the attention (B * heads, n, positions so far)."""
        batch, count, width = x.shape
        split = self.qkv(self.norm1(x)).view(batch, count, 3, self.heads, -1)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).flatten(1, 2)
        queries, keys = F.rms_norm(torch.stack([queries, keys]), queries.shape[-1:]).to(x.dtype)
        if cache:
            keys, values = cache.add(keys, values)
        # Plain products: on a CPU in bf16 they train twice as fast as the fused kernel.
        scores = queries.to(keys.dtype) * queries.shape[-1] ** -0.5 @ keys.mT
        if count > 1:
            scores = scores + torch.full_like(scores[0], -1e4).triu(keys.shape[1] - count + 1)
        attention = scores.softmax(-1)
        mixed = (attention @ values).view(batch, self.heads, count, -1).transpose(1, 2)
        x = x + self.out(mixed.reshape(batch, count, width).to(x.dtype))
        return x + self.narrow(F.relu(self.widen(self.norm2(x))).square()), attention


class Transformer(nn.Module):
    """The distribution of a picture's tokens given a text's.

    ``words``: (vocabulary, e) embeddings of the text tokens, which stay as they are: mini CLIP's, so that words that
    mean the same are alike from the start. They are not part of the weights. The paper's transformer has the words
    alone; this one also gets, at every image token, what mini CLIP's text tower makes of them: a ``meaning`` of
    ``understood`` numbers, all 0 for no text.
    """

    words: Tensor

    def __init__(
        self,
        words: Tensor,
        width: int = 256,
        layers: int = 6,
        heads: int = 4,
        side: int = 16,
        codes: int = 1024,
        context: int = 20,
        understood: int = 192,
    ):
        super().__init__()
        self.side, self.codebook_size, self.context_length = side, codes, context
        self.width, self.heads = width, heads
        self.register_buffer("words", words, persistent=False)
        self.widen = nn.Linear(words.shape[1], width)
        self.padding = _random_embeddings(context, width)  # learned for every position, as in the paper
        self.positions = _random_embeddings(context, width)
        self.understand = nn.Sequential(nn.Linear(understood, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.tokens = nn.Embedding(codes, width)
        self.rows, self.columns = (_random_embeddings(side, width) for _ in range(2))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.next_word, self.next_code = nn.Linear(width, words.shape[1]), nn.Linear(width, codes)
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "narrow.weight")):
                nn.init.normal_(weight, std=0.02 / (2 * layers) ** 0.5)
        nn.init.normal_(self.tokens.weight, std=0.5)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Return the tokens of texts (B, context) int64, -1 where there is nothing; longer texts are cut."""
        rows = torch.full((len(texts), self.context_length), -1)
        for row, text in zip(rows, texts, strict=True):
            tokens = torch.tensor(encode(text)[: self.context_length], dtype=torch.int64)
            row[: len(tokens)] = tokens
        return rows

    def embed(self, text: Tensor, summary: Tensor, image: Tensor) -> Tensor:
        """Embed text tokens (B, context), a summary of the text (B, width), and the first n image tokens (B, n).

        Returns (B, context + n, width). The last text position, which predicts the first image token, also gets the
        summary.
        """
        words = torch.where((text >= 0)[..., None], self.widen(self.words[text.clamp(min=0)]), self.padding)
        words, summary = words + self.positions, summary[:, None]
        return torch.cat([words[:, :-1], words[:, -1:] + summary, self.embed_codes(summary, image, 0)], 1)

    def embed_codes(self, summary: Tensor, image: Tensor, first: int) -> Tensor:
        """Embed image tokens (B, n) from the position ``first`` on, as (B, n, width)."""
        positions = (self.rows[:, None] + self.columns).flatten(0, 1)
        return self.tokens(image) + positions[first : first + image.shape[1]] + summary

    def forward(
        self, x: Tensor, caches: list[KVCache] | None = None, attention_maps: list[Tensor] | None = None
    ) -> Tensor:
        """Return the features of embedded positions (B, n, width); ``attention_maps`` gets those of every layer."""
        for i, block in enumerate(self.blocks):
            x, attention = block(x, caches and caches[i])
            if attention_maps is not None:
                attention_maps.append(attention)
        return self.norm(x)

    def caches(self, batch: int, like: Tensor) -> list[KVCache]:
        """Return an empty cache for every layer."""
        shape = batch * self.heads, self.context_length + self.side**2, self.width // self.heads
        return [KVCache(shape, like) for _ in self.blocks]


def _random_embeddings(*shape: int) -> nn.Parameter:
    """Return random embeddings of positions, as training begins with them."""
    return nn.Parameter(nn.init.normal_(torch.empty(*shape), std=0.02))


class BuiltinPrior:
    """The built-in transformer as a prior: 256 tokens of the mini dVAE, emoji art in Noto's style and plain scenes."""

    generator, perceptor = "mini-dvae", "mini"
    temperature, guidance, top_k = 0.7, 1.5, 128

    def __init__(self, name: str = "mini", device: torch.device | str = "cpu"):
        self.name, self.device = name, torch.device(device)
        tensors, config = weights.load_weights(WEIGHTS / "prior.safetensors")
        self.tower = BuiltinPerceptor("mini", device).net.text
        words = self.tower.tokens.weight.detach()
        net = weights.build_net(partial(Transformer, words), config, tensors, name)
        net.words = words
        self.net = net.to(device, devices.PRECISIONS[devices.full_range(self.device)]).eval().requires_grad_(False)
        self.side, self.codebook_size = net.side, net.codebook_size

    @torch.no_grad()
    def encode_text(self, text: str) -> tuple[Tensor, Tensor]:
        """Return a text's tokens (1, context), and its summary (1, width)."""
        tokens = self.net.tokenize([text]).to(self.device)
        return tokens, self.net.understand(self.tower.features(tokens).to(self.net.words.dtype))

    def start(self, text: str, count: int, guidance: float) -> TokenPredictor:
        return _Predictor(self, text, count, guidance)

    @torch.no_grad()
    def attention(self, text: str, image: Tensor) -> Tensor:
        """Return the attention maps of a picture (side, side): (layers, heads, positions, positions)."""
        maps: list[Tensor] = []
        self.net(self.net.embed(*self.encode_text(text), image.reshape(1, -1).to(self.device)), attention_maps=maps)
        return torch.stack(maps).float()


class _Predictor:
    @torch.no_grad()
    def __init__(self, prior: BuiltinPrior, text: str, count: int, guidance: float):
        self.net, self.guidance = prior.net, guidance
        texts = [text] if guidance == 1 else [text, ""]
        words, summary = (torch.cat(parts).repeat_interleave(count, 0) for parts in zip(*map(prior.encode_text, texts)))
        embedded = self.net.embed(words, summary, words[:, :0])
        # On a CPU products of so few rows are slower in bf16, and each number of columns needs a kernel of its own.
        self.caches = self.net.caches(len(words), embedded.float())
        self.net(embedded[:, :-1], self.caches)
        self.last, self.summary = embedded[:, -1:], summary[:, None]  # the last word predicts the first token
        self.ahead = prior.side if len(words) * prior.side <= AT_ONCE else 1

    @torch.no_grad()
    def __call__(self, tokens: Tensor, first: int, n: int) -> Tensor:
        repeated, start = tokens.repeat(len(self.last) // len(tokens), 1), max(0, first - 1)
        x = self.net.embed_codes(self.summary, repeated[:, start : first + n - 1], start)
        for cache in self.caches:
            cache.length = self.net.context_length - 1 + first
        features = self.net(x if first else torch.cat([self.last, x], 1), self.caches)
        return apply_guidance(self.net.next_code(features).float(), self.guidance)

    def reorder(self, pictures: Tensor) -> None:
        numbers = torch.cat([pictures + i for i in range(0, len(self.last), len(pictures))])  # with the text, without
        for cache in self.caches:
            cache.reorder(numbers)
