"""Our dVAE against OpenAI's package ``dall-e``, through the file format of its release."""

import subprocess
import sys

import dall_e.decoder
import dall_e.encoder
import dall_e.utils
import pytest
import torch

from clipgen.generators.codebook import Codebook, Gumbel
from clipgen.generators.dvae import DVAE, from_openai
from clipgen.storage import weights

SMALL = {"n_hid": 64, "n_blk_per_group": 2, "vocab_size": 512}


@pytest.fixture(params=["zip", "legacy"])
def release(request, tmp_path):
    """encoder.pkl and decoder.pkl: pickled module objects, in either of torch's containers."""
    encoder, decoder = dall_e.encoder.Encoder(**SMALL), dall_e.decoder.Decoder(n_init=16, **SMALL)
    for module in (*encoder.parameters(), *decoder.parameters()):
        module.data += 0.02 * torch.randn_like(module)  # biases too
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        torch.save(module, tmp_path / f"{name}.pkl", _use_new_zipfile_serialization=request.param == "zip")
    return encoder, decoder, tmp_path


def ours(folder):
    tensors = {
        f"{half}.{key}": value
        for half in ("encoder", "decoder")
        for key, value in weights.load_weights(weights.as_safetensors(folder / f"{half}.pkl"))[0].items()
    }
    net = DVAE(n_hid=64, n_blk_per_group=2, n_init=16, vocab_size=512)
    weights.assign_weights(net, from_openai(tensors), "dvae")
    return net


@torch.no_grad()
def test_equal_to_the_reference(release):
    encoder, decoder, folder = release
    net = ours(folder)
    images = torch.rand(2, 3, 64, 96)
    wanted = encoder(dall_e.utils.map_pixels(images))
    assert (net.logits(images) - wanted).abs().max() <= 1e-5

    tokens = wanted.argmax(1)
    one_hot = torch.nn.functional.one_hot(tokens, 512).permute(0, 3, 1, 2).float()
    statistics = decoder(one_hot)
    assert (net.statistics(net.lookup(tokens)) - statistics).abs().max() <= 1e-5
    picture = dall_e.utils.unmap_pixels(torch.sigmoid(statistics[:, :3]))

    straight, gumbel = Codebook("dvae", net, 256), Gumbel("dvae", net, 256)
    assert not net.encoder.blocks.input.weight.is_contiguous(memory_format=torch.channels_last), "until it is needed"
    for generator in (straight, gumbel):
        assert torch.equal(generator.tokens(generator.encode(images)), tokens)
        assert (generator.image(generator.from_tokens(tokens)) - picture).abs().max() <= 1e-5
        assert (generator.image(generator.encode(images)) - picture).abs().max() <= 1e-5
    # The relaxed picture becomes the hard one when the logits leave no doubt.
    sure = gumbel.image(one_hot * 1000, 1.0, torch.Generator().manual_seed(0))
    assert (sure - picture).abs().max() <= 1e-5


@pytest.mark.slow
def test_reading_imports_nothing_of_the_reference(release):
    *_, folder = release
    code = """
import sys
from pathlib import Path
from clipgen.storage import weights
tensors = weights.load_weights(weights.as_safetensors(Path(sys.argv[1])))[0]
assert tensors["blocks.group_2.block_1.id_path.w"].shape == (128, 64, 1, 1), sorted(tensors)[:9]
assert not any(name.startswith("dall_e") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(folder / "encoder.pkl")], check=True)
