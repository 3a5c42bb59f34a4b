"""Our VQGAN against taming-transformers, through Lightning checkpoints as they were published."""

import argparse
import dataclasses
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from taming.modules.diffusionmodules.model import Decoder, Encoder
from taming.modules.vqvae.quantize import GumbelQuantize, VectorQuantizer2
from torch import nn

import clipgen
from clipgen.errors import ClipgenError
from clipgen.generators.catalogue import GENERATORS
from clipgen.generators.codebook import Gumbel
from clipgen.generators.vqgan import VQModel
from clipgen.storage import remote as cache
from clipgen.storage.weights import converted_path

DDCONFIG = {
    "double_z": False,
    "z_channels": 32,
    "resolution": 64,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 2],
    "num_res_blocks": 2,
    "attn_resolutions": [16],
    "dropout": 0.0,
}


class Reference(nn.Module):
    """The parts of taming's VQModel or GumbelVQ, whose module cannot be imported beside today's Lightning."""

    def __init__(self, gumbel):
        super().__init__()
        self.encoder, self.decoder = Encoder(**DDCONFIG), Decoder(**DDCONFIG)
        self.quantize = GumbelQuantize(32, 32, 64) if gumbel else VectorQuantizer2(64, 32, beta=0.25)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)
        for p in self.parameters():
            p.data += 0.01 * torch.randn_like(p)
        # Codes as long as trained ones: the norms would blow up the rounding of the initial, tiny ones.
        (self.quantize.embed if gumbel else self.quantize.embedding).weight.data.normal_()


def save(reference, folder, prefix="", target="taming.models.vqgan.VQModel", without=(), more=()):
    """A Lightning checkpoint with all that is not the model, and the yaml beside it."""
    from pytorch_lightning.callbacks import ModelCheckpoint

    state = {prefix + key: value for key, value in reference.state_dict().items() if key not in without}
    state |= {key: torch.zeros(2, 2) for key in more}
    state |= {f"{prefix}loss.discriminator.main.0.weight": torch.randn(8, 3, 4, 4), "loss.logvar": torch.zeros(())}
    if prefix:
        state["transformer.tok_emb.weight"] = torch.randn(16, 8)
    torch.save(
        {
            "epoch": 3,
            "global_step": 12,
            "pytorch-lightning_version": "1.0.8",
            "state_dict": state,
            "callbacks": {ModelCheckpoint: {"best_model_score": torch.tensor(0.5), "dirpath": "logs"}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(4)}}, "param_groups": [{"lr": 1e-4}]}],
            "lr_schedulers": [],
            "hyper_parameters": OmegaConf.create({"ddconfig": DDCONFIG, "lr": 4.5e-6, "ckpt_path": None}),
            "hparams": argparse.Namespace(base=["configs/custom_vqgan.yaml"], train=True),
        },
        folder / "model.ckpt",
    )
    model = {
        "target": target,
        "params": {
            "embed_dim": 32,
            "n_embed": 64,
            "ddconfig": DDCONFIG,
            "lossconfig": {"target": "taming.modules.losses.DummyLoss"},
        },
    }
    if prefix:
        model = {"target": "taming.models.cond_transformer.Net2NetTransformer", "params": {"first_stage_config": model}}
    OmegaConf.save(OmegaConf.create({"model": model, "data": {"target": "main.DataModule"}}), folder / "model.yaml")
    return str(folder / "model.ckpt")


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_equal_to_the_reference(prefix, tmp_path):
    reference = Reference(gumbel=False)
    generator = clipgen.load_generator(save(reference, tmp_path, prefix))
    images = torch.rand(2, 3, 64, 96)
    latent = reference.quant_conv(reference.encoder(images * 2 - 1))
    assert (generator.net.encode(images) - latent).abs().max() <= 1e-5
    codes, _, (_, _, tokens) = reference.quantize(latent)
    assert torch.equal(generator.tokens(generator.encode(images)).flatten(), tokens)
    assert (generator.encode(images) - codes).abs().max() <= 1e-5
    codes = reference.quantize.get_codebook_entry(tokens, (2, 16, 24, 32))  # without its straight-through's rounding
    picture = (reference.decoder(reference.post_quant_conv(codes)) + 1) / 2
    assert (generator.image(generator.encode(images)) - picture.clamp(0, 1)).abs().max() <= 1e-5
    assert (
        generator.stride == 4 and generator.image(generator.from_tokens(tokens.view(2, 16, 24))).shape == images.shape
    )


@torch.no_grad()
def test_gumbel_equal_to_the_reference(tmp_path):
    reference = Reference(gumbel=True)
    file = save(reference, tmp_path, target="taming.models.vqgan.GumbelVQ")
    generator = clipgen.load_generator(file)
    images = torch.rand(1, 3, 64, 64)
    logits = reference.quantize.proj(reference.quant_conv(reference.encoder(images * 2 - 1)))
    assert (generator.net.logits(images) - logits).abs().max() <= 1e-5
    tokens = generator.tokens(generator.encode(images))
    assert torch.equal(tokens, logits.argmax(1)), "the reference draws them with noise; these are the likeliest"
    codes = reference.quantize.get_codebook_entry(tokens.flatten(), (1, 16, 16, 32))
    picture = (reference.decoder(reference.post_quant_conv(codes)) + 1) / 2
    assert (generator.image(generator.from_tokens(tokens)) - picture.clamp(0, 1)).abs().max() <= 1e-5
    relaxed = clipgen.load_generator(file, relax="gumbel")
    assert isinstance(relaxed, Gumbel) and torch.equal(relaxed.tokens(relaxed.encode(images)), tokens)


def test_latents_are_kept_on_the_codebook_with_a_gradient(tmp_path):
    file = save(Reference(gumbel=False), tmp_path)
    generator = clipgen.load_generator(file)
    latent = generator.start((32, 64), torch.Generator().manual_seed(0)).requires_grad_()
    generator.image(latent).mean().backward()
    assert latent.grad.abs().sum() > 0
    latent.data.add_(100)
    generator.project_(latent)
    assert (latent <= generator.net.codebook.amax(0)[:, None, None]).all()
    with pytest.raises(ClipgenError, match="no token logits"):
        clipgen.load_generator(file, relax="gumbel")


def test_what_does_not_fit_is_named(tmp_path):
    reference = Reference(gumbel=False)
    file = save(reference, tmp_path)
    yaml = tmp_path / "model.yaml"
    text = yaml.read_text()
    yaml.write_text(text.replace("n_embed: 64", "n_embed: 128"))
    with pytest.raises(ClipgenError, match=r"quantize\.embedding\.weight is \(64, 32\) instead of \(128, 32\)"):
        clipgen.load_generator(file)
    yaml.write_text(text.replace("VQModel", "GumbelVQ"))
    with pytest.raises(ClipgenError, match=r"quantize\.proj\.weight is missing"):
        clipgen.load_generator(file)
    yaml.write_text(text.replace("VQModel", "AutoencoderKL"))
    with pytest.raises(ClipgenError, match="takes VQModel and GumbelVQ"):
        clipgen.load_generator(file)
    for broken in ("- nothing", text.replace("ch_mult", "mult"), text.replace("n_embed: 64", "n_embed: many")):
        yaml.write_text(broken)
        with pytest.raises(ClipgenError, match="does not describe a VQGAN"):
            clipgen.load_generator(file)
    yaml.unlink()
    with pytest.raises(ClipgenError, match="yaml is needed"):
        clipgen.load_generator(file)


MORE = ["discriminator.main.0.weight", "perceptual_loss.lin0.model.1.weight", "quantize.embed_old.weight", "colorize"]


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_checkpoint_may_bring_more_but_not_less(prefix, tmp_path):
    reference = Reference(gumbel=False)
    plain = clipgen.load_generator(save(reference, tmp_path, prefix))
    more = [*MORE, *(prefix + key for key in MORE), "cond_stage_model.encoder.conv_in.weight"]
    generator = clipgen.load_generator(save(reference, tmp_path, prefix, more=more))
    assert all(torch.equal(a, b) for a, b in zip(generator.net.parameters(), plain.net.parameters(), strict=True))
    for missing in ("encoder.conv_in.bias", "decoder.mid.attn_1.proj_out.weight"):
        file = save(reference, tmp_path, prefix, without=[missing], more=more)
        with pytest.raises(ClipgenError, match=rf"do not fit the model: {re.escape(missing)} is missing;"):
            clipgen.load_generator(file)


@torch.no_grad()
def test_the_first_stage_outlives_a_transformers_checkpoint(tmp_path, monkeypatch):
    config = {key: value for key, value in DDCONFIG.items() if key in GENERATORS["sflckr"].config}
    entry = dataclasses.replace(GENERATORS["sflckr"], config=config | {"n_embed": 64, "embed_dim": 32}, stride=4)
    monkeypatch.setitem(GENERATORS, "sflckr", entry)
    reference, remote = Reference(gumbel=False), entry.files[0]
    file = cache.cache_folder() / remote.name
    file.parent.mkdir(parents=True)
    made = save(reference, tmp_path, "first_stage_model.", more=[f"transformer.blocks.{i}.weight" for i in range(9)])
    file.write_bytes(Path(made).read_bytes())
    before = clipgen.load_generator("sflckr")
    assert [item.file for item in cache.prune()] == [file] and converted_path(remote.name).exists()
    after = clipgen.load_generator("sflckr")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(after.image(after.encode(images)), before.image(before.encode(images)))


@pytest.mark.parametrize("name", [name for name, entry in GENERATORS.items() if ".vqgan:" in entry.loader])
def test_every_source_is_large_enough_for_the_net(name):
    """A copy of 289 MB under the name of 16,384 codes, which take 304, was once among the sources."""
    with torch.device("meta"):
        net = VQModel(**GENERATORS[name].config)
    (file,) = GENERATORS[name].files
    needed = 4 * sum(value.numel() for value in net.state_dict().values()) / 1e6
    for source in file.parsed_sources:
        assert needed <= source.megabytes + 0.5, source.where
        assert source.hub or source.where.startswith("https://"), source.where
    assert file.bulky == (file.megabytes > 10 * needed)


def test_published_checksums_and_revisions():
    wikiart, faces = (GENERATORS[name].files[0].parsed_sources for name in ("wikiart_f16_16384", "faceshq"))
    assert {source.sha256[:8] for source in wikiart} == {"bd08bb46"} and {s.sha256[:8] for s in faces} == {"3274bba5"}
    hub = faces[0].hub
    assert hub["repo_id"] == "Somnai/pytti-vqgan-checkpoints" and hub["filename"] == "faceshq/faceshq.ckpt"
    assert re.fullmatch("[0-9a-f]{40}", hub["revision"])
    digests = [s.sha256 for e in GENERATORS.values() for f in e.files for s in f.parsed_sources if s.sha256]
    assert len(digests) > 10 and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    assert GENERATORS["wikiart_f16_1024"].codebook_size == 1024 and GENERATORS["llamagen_vq16_t2i"].stride == 16
