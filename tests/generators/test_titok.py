"""Our TiTok against numbers that its publisher's code computed; see ``source`` in fixtures/titok.json."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference_precision import weights_by_name
from safetensors.torch import save_file

import clipgen
from clipgen.errors import ClipgenError
from clipgen.generators import titok
from clipgen.generators.catalogue import GENERATORS
from clipgen.storage import weights

NUMBERS = json.loads((Path(__file__).parent / "fixtures" / "titok.json").read_text())
SMALL = {"encoder": (64, 2, 2), "decoder": (64, 2, 2), "tokens": 8, "size": 64, "widths": (32, 32, 64, 64, 128)}
KINDS = {"legacy": {"codes": (64, 12)}, "pixels": {"codes": (64, 16), "legacy": False}}
# Numbers of weights of the published architectures, in the publisher's code: all names and shapes are the same.
PUBLISHED = {"titok_s128": 83_674_639, "titok_b64": 204_814_095, "titok_bl128": 390_179_988, "titok_l32": 641_054_735}


def published_name(key):
    """What the publisher's code calls a weight of ours; the painter's are renamed."""
    for ours, published in (("mid.block_1.", "mid.0."), ("mid.block_2.", "mid.1."), ("upsample.conv", "upsample_conv")):
        key = key.replace(ours, published)
    return key


@pytest.fixture(params=KINDS)
def small(request, tmp_path, monkeypatch):
    """A small one under the name titok_l32, loaded from a file as published."""
    monkeypatch.setenv("CLIPGEN_CACHE", str(tmp_path / "cache"))
    config = SMALL | KINDS[request.param]
    entry = GENERATORS["titok_l32"]
    remote = replace(entry.files[0], megabytes=None)
    facts = {"native_size": 64, "sequence": 8, "codebook_size": 64}
    monkeypatch.setitem(GENERATORS, "titok_l32", replace(entry, files=(remote,), config=config, **facts))
    shapes = {published_name(key): value.shape for key, value in titok.TiTok(**config).state_dict().items()}
    (tmp_path / "cache" / "titok").mkdir(parents=True)
    save_file(weights_by_name(shapes), tmp_path / "cache" / remote.name)
    return NUMBERS[request.param], clipgen.load_generator("titok_l32")


def test_encode_tokens_and_decode_are_the_publishers(small):
    numbers, ours = small
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latent = ours.net.encode(image)
    assert (latent.flatten() - torch.tensor(numbers["latent"])).abs().max() <= 1e-4
    tokens = ours.tokens(latent)
    assert tokens.shape == (1, 1, 8) and tokens.flatten().tolist() == numbers["tokens"]
    assert torch.equal(ours.tokens(ours.encode(image)), tokens)
    wanted = torch.tensor(numbers["pixels"]).view(3, 8, 8)
    pixels = ours.image(ours.from_tokens(tokens))[0, :, 4::8, 4::8]
    assert (pixels - wanted.clamp(0, 1)).abs().max() <= 1e-4
    assert ((wanted > 0) & (wanted < 1)).float().mean() > 0.2


def test_the_gradient_is_that_of_the_length_one_direction(small):
    _, ours = small
    latent = (3 * ours.start((64, 64), torch.Generator().manual_seed(0))).requires_grad_()
    assert torch.equal(ours.image(latent), ours.image(latent / 3)) or not ours.net.legacy
    ours.image(latent).square().mean().backward()
    assert latent.grad.abs().sum() > 0
    if ours.net.legacy:  # no pull along the code, whose length does not count
        along = (latent.grad * latent).sum(1)
        assert along.abs().max() < 1e-4 * latent.grad.norm() * latent.norm()


@pytest.mark.slow
def test_a_run_draws_resumes_and_replays(small, tmp_path):
    quick = {"generator": "titok_l32", "steps": 6, "every": 1, "cutouts": 2, "folder": tmp_path}
    whole = clipgen.Run("a cat", **quick)
    frames = [frame.image.tobytes() for frame in whole]
    assert whole.image.size == (64, 64) and whole.journal.latent(6).shape == (1, 8) and len(set(frames)) > 1
    half = clipgen.Run("a cat", like=whole, **quick)
    for frame in half:
        if frame.step == 3:
            half.stop()
    assert [frame.image.tobytes() for frame in clipgen.Run.resume(half.journal.folder, like=whole)] == frames[3:]
    again = clipgen.Run.replay(whole.journal.folder, folder=tmp_path, like=whole)
    assert [frame.image.tobytes() for frame in again] == frames
    from_tokens = clipgen.Run("a cat", init=whole.journal.latent(6), like=whole, **(quick | {"steps": 1}))
    assert [frame.step for frame in from_tokens] == [1]
    with pytest.raises(ClipgenError, match=r"size=\(128, 64\): titok_l32 draws 64x64 pixels only; leave size out"):
        clipgen.Run("a cat", size=(128, 64), **quick)
    assert clipgen.Run("a cat", quality="draft", like=whole, **quick).settings.size == (64, 64)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes(name):
    entry = GENERATORS[name]
    net = weights.build_empty(titok.TiTok, entry.config)
    count = sum(weight.numel() for weight in net.state_dict().values())
    assert count == PUBLISHED[name] and entry.megabytes == pytest.approx(count * 4e-6, abs=1)
    assert len(net.codebook) == entry.codebook_size and net.sequence == entry.sequence
