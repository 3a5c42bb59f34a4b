"""LlamaGen's tokenizer: its net lives on in transformers as Janus' VQ model, which is the reference here."""

import re

import torch
from transformers.models.janus.modeling_janus import JanusVQVAE, JanusVQVAEConfig

from clipgen.models.parameterisations.codebook import Codebook
from clipgen.models.parameterisations.taming import from_llamagen
from clipgen.models.parameterisations.vqgan import VQModel
from clipgen.storage import weights

NAMES = [
    (r"(down|up)\.(\d+)", r"conv_blocks.\2"),
    (r"\.block\.", ".res."),
    (r"mid\.block_1", "mid.0"),
    (r"mid\.attn_1", "mid.1"),
    (r"mid\.block_2", "mid.2"),
]


@torch.no_grad()
def test_equal_to_the_reference(tmp_path):
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
    tensors = weights.read(weights.as_safetensors(tmp_path / "vq_ds16_c2i.pt"))[0]
    weights.fit(net, from_llamagen(tensors), "llamagen")
    generator = Codebook("llamagen", net, 256)
    images = torch.rand(2, 3, 64, 64)
    assert (net.encode(images) - reference.quant_conv(reference.encoder(images * 2 - 1))).abs().max() <= 1e-5
    tokens = generator.tokens(generator.encode(images))
    reference.quantize.embedding.weight.data = torch.nn.functional.normalize(reference.quantize.embedding.weight.data)
    assert torch.equal(tokens.flatten(), reference.encode(images * 2 - 1).image_tokens)
    picture = (reference.decode(tokens.flatten(1)) + 1) / 2
    assert (generator.image(generator.place(tokens)) - picture.clamp(0, 1)).abs().max() <= 1e-5
