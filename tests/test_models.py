"""``clipgen models`` and the registry behind it."""

import subprocess
import sys

import diffusers
import open_clip
import pytest
import torch
from torch.nn import functional as F

from clipgen import fast
from clipgen.cli import main
from clipgen.clip.published import NAMED, find_remote, list_published
from clipgen.generators import token_grid
from clipgen.generators.catalogue import GENERATORS
from clipgen.generators.dvae import DVAE
from clipgen.generators.titok import TiTok
from clipgen.generators.vae import TAESD
from clipgen.generators.vqgan import VQModel
from clipgen.storage import weights


def table(text):
    return {line.split()[0]: line for line in text.splitlines() if line}


@pytest.mark.slow
def test_the_table_knows_everything_and_what_is_here(cache, capsys):
    command = [sys.executable, "-m", "clipgen", "models"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = table(text)
    assert max(map(len, text.splitlines())) <= 120
    assert GENERATORS.keys() | {"mini"} <= rows.keys()
    pictures = [(name, tag) for name, tag in open_clip.list_pretrained() if not name.startswith("CLAP")]
    assert {f"{architecture}/{tag}" for architecture, tag in pictures} <= rows.keys()
    for part in ("377 MB", "f8", "8192", "MIT"):
        assert part in rows["vqgan_openimages_f8_8192"]
    assert NAMED.keys() <= rows.keys() and "3944 MB" in rows["pickscore"] and "transformers" in rows["pickscore"]
    assert "8.8 GB" in rows["sd-turbo"] and "512" in rows["sd-turbo"] and "memory: computed" in text
    assert "they are not probabilities" in text and "its gradient draws shapes" in text
    assert rows["dvae"].endswith(" -") and rows["mini-vqgan"].endswith("built-in") and "none needed" in rows["stack"]
    for file in ("dvae/encoder.pkl", "dvae/decoder.pkl"):
        (cache / file).parent.mkdir(parents=True, exist_ok=True)
        (cache / file).write_bytes(b"x")
    assert main(["models", "DVAE"]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["dvae"].endswith(" cached") and "mini-dvae" in rows and not {"stack", "RN50/openai"} & rows.keys()


NETS = {"vqgan": VQModel, "dvae": DVAE, "titok": TiTok, "vae": TAESD}
SD_TURBO = {  # of stabilityai/sd-turbo's unet/config.json and vae/config.json
    "unet": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
    },
}


def net_and_decode(name, entry):
    """A generator's net without numbers, and what makes the picture of a latent."""
    if not name.startswith("sd-turbo"):
        net = weights.build_empty(NETS[entry.loader.partition(":")[0].rpartition(".")[2]], entry.config)
        return net, net.decode
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**SD_TURBO["unet"])
        vae, tiny = diffusers.AutoencoderKL(**SD_TURBO["vae"]), TAESD()
        text, time = torch.empty(1, 77, 1024), torch.zeros(())
    decode = tiny.decode if name == "sd-turbo-taesd" else lambda latent: vae.decode(latent).sample
    return torch.nn.ModuleList([unet, vae, tiny]), lambda z: decode(unet(z, time, encoder_hidden_states=text).sample)


def fused_attention(q, k, v, *_, **__):
    """The fused kernel, which saves no scores; on the meta device torch would write them out."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]


@pytest.mark.parametrize("name", [name for name, entry in GENERATORS.items() if entry.memory])
def test_memory_is_that_of_the_weights_and_of_what_a_step_saves(name, monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", fused_attention)
    entry, saved = GENERATORS[name], {}
    net, decode = net_and_decode(name, entry)
    fast.optimize_for(net.eval().requires_grad_(False), torch.device("cpu"))
    channels = net.codebook.shape[1] if entry.codebook_size else entry.config.get("channels", 4)
    grid = token_grid(entry, (entry.native_size, entry.native_size))
    latent = torch.empty(1, channels, *grid, device="meta", requires_grad=True)

    def pack(tensor):
        if not tensor.is_leaf or tensor.dtype == torch.bool:
            storage = tensor.untyped_storage()
            saved[storage._cdata] = storage
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        decode(latent * 1)
    numbers = sum(storage.nbytes() for storage in saved.values()) + sum(4 * p.numel() for p in net.parameters())
    assert numbers / 1e9 == pytest.approx(entry.memory, abs=0.06)


def test_checksums_are_those_that_publishers_write_into_addresses():
    assert find_remote("ViT-B-32", "openai").sha256.startswith("40d365715913c9da98579312b702a82c")
    assert find_remote("RN50", "yfcc15m").sha256 == "455df137"
    assert (
        find_remote("ViT-B-32", "openai").sources[0]
        == "hf:timm/vit_base_patch32_clip_224.openai/open_clip_model.safetensors"
    )
    assert all(find_remote(a, t).sources for a, t in list_published())
    assert all(
        source.startswith(("hf:", "https://")) for e in GENERATORS.values() for f in e.files for source in f.sources
    )
