"""LlamaGen's tokenizer: its net lives on in transformers as Janus' VQ model, which is the reference here."""

import re

import pytest
import torch

from clipgen.generators.codebook import Codebook
from clipgen.generators.vqgan import VQModel, from_llamagen
from clipgen.optimizers import OptimizerConfig
from clipgen.runs.settings import build
from clipgen.storage import pickles, weights

NAMES = [
    (r"(down|up)\.(\d+)", r"conv_blocks.\2"),
    (r"\.block\.", ".res."),
    (r"mid\.block_1", "mid.0"),
    (r"mid\.attn_1", "mid.1"),
    (r"mid\.block_2", "mid.2"),
]


@torch.no_grad()
def test_equal_to_the_reference(tmp_path):
    from transformers.models.janus.modeling_janus import JanusVQVAE, JanusVQVAEConfig

    config = JanusVQVAEConfig(
        base_channels=32, channel_multiplier=[1, 2, 4], latent_channels=32, num_embeddings=64, num_patches=16
    )
    reference = JanusVQVAE(config).eval()
    for p in reference.parameters():
        p.data += 0.03 * torch.randn_like(p)
    state = {}
    for key, value in reference.state_dict().items():
        for pattern, name in NAMES:
            key = re.sub(pattern, name, key)
        state[key] = value
    torch.save({"model": state | {"quantize.codebook_used": torch.zeros(8)}, "steps": 3}, tmp_path / "vq_ds16_c2i.pt")

    net = VQModel(
        n_embed=64, embed_dim=8, z_channels=32, ch=32, ch_mult=(1, 2, 4), num_res_blocks=2, attn_resolutions=(64,)
    )
    tensors = weights.load_weights(weights.as_safetensors(tmp_path / "vq_ds16_c2i.pt"))[0]
    weights.assign_weights(net, from_llamagen(tensors), "llamagen")
    generator = Codebook("llamagen", net, 256)
    images = torch.rand(2, 3, 64, 64)
    assert (net.encode(images) - reference.quant_conv(reference.encoder(images * 2 - 1))).abs().max() <= 1e-5
    tokens = generator.tokens(generator.encode(images))
    reference.quantize.embedding.weight.data = torch.nn.functional.normalize(reference.quantize.embedding.weight.data)
    assert torch.equal(tokens.flatten(), reference.encode(images * 2 - 1).image_tokens)
    picture = (reference.decode(tokens.flatten(1)) + 1) / 2
    assert (generator.image(generator.from_tokens(tokens)) - picture.clamp(0, 1)).abs().max() <= 1e-5


def test_the_average_of_its_weights_is_taken_first(tmp_path):
    """Its own scripts show pictures with ``ema``, where a checkpoint has it."""
    average, model = {"quantize.w": torch.ones(2)}, {"quantize.w": torch.zeros(2)}
    for number, saved in enumerate([{"model": model, "ema": average}, {"ema": average}, {"model": average, "ema": {}}]):
        torch.save(saved | {"steps": 3}, tmp_path / f"{number}.pt")
        assert pickles.load_tensors(tmp_path / f"{number}.pt")["quantize.w"].tolist() == [1, 1]


def test_its_learning_rate_counts_in_deviations_of_its_codes():
    """Its codes have a length of 1 in 8 numbers: 0.1 of them is 0.28 of their deviation."""
    asked = build("a city", {"generator": "llamagen_vq16", "device": "cpu"})
    codes = torch.nn.functional.normalize(torch.randn(64, 8), dim=-1)
    net = VQModel(n_embed=64, embed_dim=8, z_channels=32, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=())
    net.codebook.data.copy_(codes)
    unit = Codebook("llamagen", net, 256).lr
    assert asked.select(OptimizerConfig).lr_at(0.0, unit, False) == pytest.approx(0.1 * float(codes.std()), rel=0.05)
