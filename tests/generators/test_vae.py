"""Our TAESD, and the hub's autoencoders, against diffusers, with random weights in the published formats."""

import importlib.util
import json
from pathlib import Path

import diffusers
import huggingface_hub.constants
import pytest
import torch
from reference_precision import weights_by_name
from safetensors.torch import save_file

import clipgen
from clipgen.errors import ClipgenError
from clipgen.generators import vae
from clipgen.generators.catalogue import GENERATORS, Entry
from clipgen.storage.remote import Remote

CPU = torch.device("cpu")
NUMBERS = json.loads((Path(__file__).parent / "fixtures" / "taesd.json").read_text())
KL = {
    "block_out_channels": (32, 32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "sample_size": 32,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "scaling_factor": 0.36,
    "shift_factor": 0.12,
}


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
    """Caches of our own, and nothing from outside."""
    monkeypatch.setenv("CLIPGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    vae.hub_config.cache_clear()
    torch.manual_seed(0)


def livelier(net):
    """Weights so large that a mistake shows in the picture."""
    for p in net.parameters():
        p.data += 0.02 * torch.randn_like(p)
    return net.eval()


def tiny(tmp_path, channels=4):
    """The reference, and ours from the file that diffusers writes of it."""
    reference = livelier(diffusers.AutoencoderTiny(latent_channels=channels))
    reference.save_pretrained(tmp_path / "cache" / "taesd")
    remote = Remote("taesd/diffusion_pytorch_model.safetensors", ("hf:nobody/taesd/nothing.safetensors",), 10)
    entry = Entry("", {"channels": channels}, files=(remote,), native_size=64, stride=8)
    return reference, entry


def on_hub(net, tmp_path, folder=""):
    """A model as the hub's cache keeps it, under org/model."""
    repo = tmp_path / "hub" / "models--org--model"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text("0" * 40)
    net.save_pretrained(repo / "snapshots" / ("0" * 40) / folder)
    return repo / "snapshots" / ("0" * 40) / folder


def from_hub(name):
    config = vae.hub_config(name)
    return vae.load_hub(name, Entry("", config=config, native_size=64, stride=config["stride"]), CPU)


def assert_equal(ours, encode, decode):
    """``encode`` and ``decode``: the reference's, for pixels in [-1, 1]."""
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        latent = encode(images * 2 - 1)
        assert ours.encode(images).shape == latent.shape and latent.std() > 0.01
        assert (ours.encode(images) - latent).abs().max() <= 1e-5
        latent = 2 * torch.randn_like(latent)
        picture = (decode(latent) + 1) / 2
        assert picture.std() > 0.01
        assert (ours.image(latent) - picture.clamp(0, 1)).abs().max() <= 1e-5


@pytest.mark.parametrize("channels", [4, 16])  # 16: also taesd3's and taef1's
def test_taesd_equal_to_diffusers(channels, tmp_path):
    reference, entry = tiny(tmp_path, channels)
    ours = vae.load("taesd", entry, CPU)
    assert_equal(ours, lambda x: reference.encode(x).latents, lambda z: reference.decode(z).sample)
    assert ours.stride == 8 and ours.start((64, 32), torch.Generator()).shape == (1, channels, 8, 4)


def test_weights_that_do_not_fit_are_named(tmp_path):
    _, entry = tiny(tmp_path, 16)
    with pytest.raises(ClipgenError, match=r"encoder\.layers\.14\.weight is \(16, 64, 3, 3\) instead of \(4,"):
        vae.load("taesd", Entry("", files=entry.files, native_size=64, stride=8), CPU)
    save_file({"nothing": torch.zeros(1)}, tmp_path / "cache" / entry.files[0].name)
    with pytest.raises(ClipgenError, match=r"encoder\.layers\.0\.weight is missing"):
        vae.load("taesd", entry, CPU)


@pytest.mark.parametrize(("folder", "name"), [("", "hf-hub:org/model"), ("vae", "hf-hub:org/model/vae")])
def test_any_autoencoder_of_the_hub(folder, name, tmp_path):
    """AutoencoderKL, by its mode, in the units of the diffusion model that it belongs to."""
    reference = livelier(diffusers.AutoencoderKL(**KL))
    on_hub(reference, tmp_path, folder)
    ours = from_hub(name)
    assert_equal(
        ours,
        lambda x: (reference.encode(x).latent_dist.mode() - 0.12) * 0.36,
        lambda z: reference.decode(z / 0.36 + 0.12).sample,
    )
    assert ours.stride == 4 and ours.name == name


def test_a_tiny_one_of_the_hub(tmp_path):
    reference = livelier(diffusers.AutoencoderTiny())
    folder = on_hub(reference, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["block_out_channels"]  # as in madebyollin/taesd
    (folder / "config.json").write_text(json.dumps(config))
    ours = from_hub("hf-hub:org/model")
    assert_equal(ours, lambda x: reference.encode(x).latents, lambda z: reference.decode(z).sample)
    assert ours.stride == 8


def test_the_deep_compression_autoencoder_of_the_hub(tmp_path):
    """Its stride is that of its levels, and its latents have a scale alone."""
    levels = {"attention_head_dim": 8, "latent_channels": 4, "scaling_factor": 0.41}
    for half in ("encoder", "decoder"):
        levels |= {f"{half}_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock", "EfficientViTBlock")}
        levels |= {f"{half}_block_out_channels": (16, 16, 32, 32), f"{half}_layers_per_block": (1, 1, 1, 1)}
        levels |= {f"{half}_qkv_multiscales": ((), (), (5,), (5,))}
    reference = livelier(diffusers.AutoencoderDC(**levels))
    on_hub(reference, tmp_path)
    ours = from_hub("hf-hub:org/model")
    assert_equal(ours, lambda x: 0.41 * reference.encode(x).latent, lambda z: reference.decode(z / 0.41).sample)
    assert ours.stride == 8 and not ours.enable_checkpointing()


def test_a_vqgan_of_the_hub(tmp_path):
    """It quantises inside, with a gradient straight through."""
    names = {"down_block_types": KL["down_block_types"], "up_block_types": KL["up_block_types"]}
    reference = livelier(
        diffusers.VQModel(block_out_channels=(32, 32, 64), vq_embed_dim=5, scaling_factor=0.5, **names)
    )
    reference.quantize.embedding.weight.data.normal_()
    on_hub(reference, tmp_path)
    ours = from_hub("hf-hub:org/model")
    assert_equal(ours, lambda x: 0.5 * reference.encode(x).latents, lambda z: reference.decode(z / 0.5).sample)
    latent = torch.randn(ours.shape((16, 16))).requires_grad_()
    assert ours.stride == 4 and latent.shape == (1, 5, 4, 4)
    ours.image(latent).square().mean().backward()
    assert latent.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["taef2", "taesana"])
def test_variants_of_taesd_that_diffusers_has_not(name, tmp_path):
    """In the files as published, against numbers that the publisher's code computed; see ``source`` there."""
    entry, numbers = GENERATORS[name], NUMBERS[name]
    shapes = {key: value.shape for key, value in vae.TAESD(**entry.config).state_dict().items()}
    (tmp_path / "cache" / name).mkdir(parents=True)
    if name == "taef2":
        save_file(weights_by_name(shapes), tmp_path / "cache" / entry.files[0].name)
    else:  # layers are counted with the clamp, and each half has its own file
        for half, file in zip(("encoder", "decoder"), entry.files):
            keys = [key.split(".", 3) for key in shapes if key.startswith(half)]
            named = {
                f"{half}.{int(layer) + (half == 'decoder')}.{rest}": shapes[f"{half}.layers.{layer}.{rest}"]
                for _, _, layer, rest in keys
            }
            tensors = {key.partition(".")[2]: value for key, value in weights_by_name(named).items()}
            torch.save({key: value.half() for key, value in tensors.items()}, tmp_path / "cache" / file.name)
    ours = clipgen.load_generator(name)
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    latent = ours.encode(image)
    assert latent.shape == ours.shape((128, 128)) == (1, 32, 128 // entry.stride, 128 // entry.stride)
    sampled = latent[0, ::4, :: latent.shape[-1] // 2, :: latent.shape[-1] // 2]
    assert (sampled.flatten() - torch.tensor(numbers["latent"])).abs().max() <= 1e-5
    pixels = ours.net.decode(2 * torch.randn(latent.shape, generator=torch.Generator().manual_seed(1)))
    assert (pixels[0, :, 8::32, 8::32].flatten() - torch.tensor(numbers["pixels"])).abs().max() <= 1e-5


def test_what_the_hub_has_not_or_should_not_have_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ClipgenError, match="cannot be loaded"):
        from_hub("hf-hub:nobody/nothing")
    for name in ("hf-hub:org", "hf-hub:/model", "hf-hub:org/"):
        with pytest.raises(ClipgenError, match="write hf-hub:org/name"):
            from_hub(name)
    small = {
        "block_out_channels": (32, 32),
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
    }
    on_hub(diffusers.UNet2DModel(sample_size=8, **small), tmp_path, "unet")
    with pytest.raises(ClipgenError, match="is UNet2DModel; clipgen takes AutoencoderKL, AutoencoderTiny, "):
        from_hub("hf-hub:org/model/unet")
    (on_hub(diffusers.AutoencoderTiny(), tmp_path, "bare") / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(ClipgenError, match="has no block_out_channels"):
        from_hub("hf-hub:org/model/bare")
    folder = on_hub(diffusers.AutoencoderTiny(), tmp_path, "pickled")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(diffusers.AutoencoderTiny().state_dict(), folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ClipgenError, match="safetensors"):
        from_hub("hf-hub:org/model/pickled")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "diffusers" else find(name))
    with pytest.raises(ClipgenError, match=r'pip install "\.\[vae\]"'):
        vae.hub_config("hf-hub:org/another")


@pytest.mark.slow
def test_a_latent_is_moved_kept_and_brought_back(tmp_path):
    _, entry = tiny(tmp_path)
    ours = vae.load("taesd", entry, CPU)
    latent = ours.start((32, 64), torch.Generator().manual_seed(1))
    assert torch.equal(latent, ours.start((32, 64), torch.Generator().manual_seed(1)))
    assert not torch.equal(latent, ours.start((32, 64), torch.Generator().manual_seed(2)))
    latent.requires_grad_()
    optimiser = torch.optim.Adam([latent], lr=0.15 * ours.lr)
    wanted, losses = ours.image(torch.randn(1, 4, 4, 8)).detach(), []
    for _ in range(20):
        loss = (ours.image(latent) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert (latent.grad != 0).all()
        optimiser.step()
        ours.project_(latent)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0], losses
    saved = ours.pack(latent)
    assert saved.dtype == torch.float16 and (ours.unpack(saved, (32, 64)) - latent).abs().max() < 2e-3
    with pytest.raises(ClipgenError, match=r"taesd at this size needs \(1, 4, 8, 4\)"):
        ours.unpack(saved, (64, 32))
    latent.data[0, 0, 0, 0] = float("inf")
    ours.project_(latent)
    assert latent.isfinite().all()
    one, other = torch.randn(2, 1, 4, 32, 32)
    assert float(ours.distance(one, other)) == pytest.approx(1, abs=0.1) and ours.distance(one, one) == 0
    with pytest.raises(ClipgenError, match="steps of 8"):
        ours.encode(torch.rand(1, 3, 33, 64))
