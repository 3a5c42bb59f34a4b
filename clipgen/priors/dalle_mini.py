"""DALL-E mini and mega (Dayma et al. 2021, 2022): an encoder of text and a decoder of a VQGAN's tokens, as in BART.

The weights are those that kuprel/min-dalle converted to torch, in 16 bits (hub repository of that name, MIT); the
parameters have their names, so that they fit as they are. Widths and the first token are those of ``config.json`` in
the hub repositories dalle-mini/dalle-mini and dalle-mini/dalle-mega. Layers are in the order of NormFormer
(Shleifer et al. 2021) with gated units for the dense part (Shazeer 2020).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from emoji import demojize
from torch import Tensor, nn
from torch.nn import functional as F

from clipgen.clip.tokenizer import merge_pairs
from clipgen.errors import ClipgenError
from clipgen.priors.sampling import KVCache, TokenPredictor, apply_guidance
from clipgen.storage import remote, weights
from clipgen.storage.remote import Remote

CONTEXT, SIDE, CODES = 64, 16, 16384
PADDING = 1
START = CODES  # the token before the first code: ``decoder_start_token_id`` of both configurations
# These norms come before dense layers that can scale as well, and so were trained and published without a scale.
_SHIFT_ONLY = ("pre_self_attn_layer_norm", "pre_encoder_attn_layer_norm", "ln0", "ln1", "final_ln")


@dataclass(frozen=True)
class Entry:
    """A published model: the arguments of both networks, and its files."""

    config: Mapping[str, int]  # layers, width, heads, inner
    words: int
    codebook_size: int  # with the start token and, in mega, unused codes
    vocabulary: Remote
    merges: Remote
    encoder: Remote
    decoder: Remote


def _entry(config: Mapping[str, int], words: int, codebook_size: int, mark: str, sizes: tuple[float, float]) -> Entry:
    """Return a row of the table; files are called ``encoder{mark}.pt``; ``sizes``: of encoder and decoder in MB."""
    names = f"vocab{mark}.json", f"merges{mark}.txt", f"encoder{mark}.pt", f"decoder{mark}.pt"
    files = (
        Remote(f"min-dalle/{name}", (f"hf:kuprel/min-dalle/{name}",), megabytes)
        for name, megabytes in zip(names, (0.8, 0.46, *sizes), strict=True)
    )
    return Entry(config, words, codebook_size, *files)


MODELS: dict[str, Entry] = {
    "dalle-mini": _entry({"layers": 12, "width": 1024, "heads": 16, "inner": 2730}, 50264, 16385, "_mini", (405, 471)),
    "dalle-mega": _entry({"layers": 24, "width": 2048, "heads": 32, "inner": 4096}, 50272, 16416, "", (2220, 2955)),
}


def spell_out(text: str) -> str:
    """Return a text with its emoji in words, as min-dalle does: ``cat_face`` for the face of a cat."""
    return demojize(text, delimiters=("", ""))


class Tokenizer:
    """Byte-pair encoding of plain English: lower case, emoji in words, and nothing but ASCII, as min-dalle reads it."""

    def __init__(self, vocabulary: Path, merges: Path):
        try:
            self.number: dict[str, int] = json.loads(vocabulary.read_text("utf-8"))
            lines = merges.read_text("utf-8").split("\n")[1:]
            self.rank = {line: i for i, line in enumerate(lines) if line}
            self.start, self.end, self.unknown = (self.number[mark] for mark in ("<s>", "</s>", "<unk>"))
        except (ValueError, KeyError, TypeError) as error:
            raise ClipgenError(f"{vocabulary}: this is not a vocabulary of DALL-E mini ({error}); delete it") from error

    def __call__(self, text: str) -> list[int]:
        """Return the tokens of a text, however many, between the marks of start and end."""
        words = spell_out(text).lower().encode("ascii", "ignore").decode().split()
        # Ġ is how byte-level vocabularies write the space before a word.
        parts = [part for word in words for part in merge_pairs(["Ġ", *word], self.rank)]
        return [self.start, *(self.number.get(part, self.unknown) for part in parts), self.end]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def _split(self, x: Tensor) -> Tensor:
        """Return (B, n, width) as (B, heads, n, width / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values (B, heads, n, width / heads) of features (B, n, width)."""
        return self._split(self.k_proj(x)), self._split(self.v_proj(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, n, width) for x of this shape, keys and values; ``mask``: (..., n or 1, m), True to attend."""
        y = F.scaled_dot_product_attention(self._split(self.q_proj(x)), keys, values, mask)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class GLU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.ln0, self.ln1 = nn.LayerNorm(width), nn.LayerNorm(inner)
        self.fc0, self.fc1 = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.fc2 = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.ln0(x)
        return self.fc2(self.ln1(F.gelu(self.fc0(x)) * self.fc1(x)))


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.pre_self_attn_layer_norm, self.self_attn_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn, self.glu = Attention(width, heads), GLU(width, inner)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.pre_self_attn_layer_norm(x)
        x = x + self.self_attn_layer_norm(self.self_attn(y, *self.self_attn.keys_and_values(y), mask))
        return x + self.glu(x)


class DecoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.pre_self_attn_layer_norm, self.self_attn_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.pre_encoder_attn_layer_norm, self.encoder_attn_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn, self.encoder_attn = Attention(width, heads), Attention(width, heads)
        self.glu = GLU(width, inner)

    def forward(self, x: Tensor, cache: KVCache, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Return (texts * pictures, n, width) for new positions of this shape, given the texts' keys and values."""
        y = self.pre_self_attn_layer_norm(x)
        self_keys_values = cache.add(*self.self_attn.keys_and_values(y))
        n, length = x.shape[1], cache.length
        earlier = None if n == 1 else torch.ones(n, length, dtype=torch.bool, device=x.device).tril(length - n)
        x = x + self.self_attn_layer_norm(self.self_attn(y, *self_keys_values, earlier))
        # The pictures of a text look at the same keys, so they are the queries of one attention.
        y = self.pre_encoder_attn_layer_norm(x).view(len(mask), -1, x.shape[-1])
        x = x + self.encoder_attn_layer_norm(self.encoder_attn(y, keys, values, mask)).view_as(x)
        return x + self.glu(x)


class Encoder(nn.Module):
    def __init__(self, words: int, layers: int, width: int, heads: int, inner: int):
        super().__init__()
        self.embed_tokens, self.embed_positions = nn.Embedding(words, width), nn.Embedding(CONTEXT, width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, inner) for _ in range(layers))
        self.layernorm_embedding, self.final_ln = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, text: Tensor) -> Tensor:
        """Return the features (B, CONTEXT, width) of text tokens (B, CONTEXT), int64."""
        x = self.layernorm_embedding(self.embed_tokens(text) + self.embed_positions.weight)
        mask = text_mask(text)
        for layer in self.layers:
            x = layer(x, mask)
        return self.final_ln(x)


class Decoder(nn.Module):
    layers: Sequence[DecoderLayer]

    def __init__(self, codebook_size: int, layers: int, width: int, heads: int, inner: int):
        super().__init__()
        self.embed_tokens, self.embed_positions = nn.Embedding(codebook_size, width), nn.Embedding(SIDE**2, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, inner) for _ in range(layers))  # type: ignore[assignment]
        self.layernorm_embedding, self.final_ln = nn.LayerNorm(width), nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, codebook_size, bias=False)

    def start_states(self, features: Tensor, pictures: int) -> list[tuple[KVCache, Tensor, Tensor]]:
        """Return for each layer an empty cache, and the keys and values of texts' features (B, CONTEXT, width)."""
        rows = len(features) * pictures
        return [
            (
                KVCache((rows, attention.heads, SIDE**2, features.shape[-1] // attention.heads), features),
                *attention.keys_and_values(features),
            )
            for attention in (layer.encoder_attn for layer in self.layers)
        ]

    def forward(self, tokens: Tensor, states: list[tuple[KVCache, Tensor, Tensor]], mask: Tensor) -> Tensor:
        """Return the logits (..., n, codebook_size) of the tokens that follow each of (texts * pictures, n)."""
        first = states[0][0].length
        x = self.embed_tokens(tokens) + self.embed_positions.weight[first : first + tokens.shape[1]]
        x = self.layernorm_embedding(x)
        for layer, state in zip(self.layers, states, strict=True):
            x = layer(x, *state, mask)
        return self.lm_head(self.final_ln(x))


def text_mask(text: Tensor) -> Tensor:
    """Return which of the text tokens (B, n) are not padding, (B, 1, 1, n)."""
    return (text != PADDING)[:, None, None]


class DalleMini:
    """DALL-E mini or mega as a prior, by its name in MODELS; in float16 on CUDA, in float32 elsewhere."""

    generator, perceptor, side, codebook_size = "dalle_mini_f16_16384", "ViT-B-32/openai", SIDE, CODES
    temperature, guidance, top_k = 1.0, 10.0, 256  # Dayma's and min-dalle's

    def __init__(self, name: str = "dalle-mini", device: torch.device | str = "cpu"):
        self.name, entry = name, MODELS[name]
        self.device = torch.device(device)
        self.tokenizer = Tokenizer(remote.fetch(entry.vocabulary), remote.fetch(entry.merges))
        # One after the other: as they are read, in float32, mega's take 4 and 6 GB.
        self.encoder = _load(Encoder, {"words": entry.words, **entry.config}, entry.encoder, self.device)
        decoder_config = {"codebook_size": entry.codebook_size, **entry.config}
        self.decoder = _load(Decoder, decoder_config, entry.decoder, self.device)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Return the tokens (B, CONTEXT) int64 of texts, cut at the context. Raises ClipgenError for none."""
        rows = torch.full((len(texts), CONTEXT), PADDING)
        for row, text in zip(rows, texts, strict=True):
            tokens = self.tokenizer(text)[:CONTEXT]
            if text.strip() and len(tokens) == 2:
                raise ClipgenError(f"prompt={text!r}: {self.name} reads English in plain letters; say it with them")
            row[: len(tokens)] = torch.tensor(tokens)
        return rows.to(self.device)

    def start(self, text: str, count: int, guidance: float) -> TokenPredictor:
        return _Predictor(self, text, count, guidance)


class _Predictor:
    ahead = 1  # its guesses are right less often than the built-in model's; more was not measured

    @torch.no_grad()
    def __init__(self, model: DalleMini, text: str, count: int, guidance: float):
        self.decoder, self.guidance = model.decoder, guidance
        words = model.tokenize([text] if guidance == 1 else [text, ""])
        self.mask = text_mask(words)
        self.states = self.decoder.start_states(model.encoder(words), count)

    @torch.no_grad()
    def __call__(self, tokens: Tensor, first: int, n: int) -> Tensor:
        previous = F.pad(tokens, (1, 0), value=START)[:, first : first + n]
        for cache, *_ in self.states:
            cache.length = first
        logits = self.decoder(previous.repeat(len(self.mask), 1), self.states, self.mask)[..., :CODES].float()
        return apply_guidance(logits, self.guidance)

    def reorder(self, pictures: Tensor) -> None:
        numbers = torch.cat([pictures + i * len(pictures) for i in range(len(self.mask))])
        for cache, *_ in self.states:
            cache.reorder(numbers)


def _load(kind: type[weights.Net], config: Mapping[str, int], file: Remote, device: torch.device) -> weights.Net:
    net = weights.build_empty(kind, config)
    scales = {
        f"{name}.weight": torch.ones(norm.normalized_shape)
        for name, norm in net.named_modules()
        if isinstance(norm, nn.LayerNorm) and name.endswith(_SHIFT_ONLY)
    }
    weights.assign_weights(net, scales | weights.load_weights(weights.as_safetensors(remote.fetch(file)))[0], file.name)
    return net.eval().requires_grad_(False).to(device, torch.float16 if device.type == "cuda" else torch.float32)
