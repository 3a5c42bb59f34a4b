"""The published architectures at their real size, with random weights in the published formats, through the CLI."""

import subprocess
import sys

import dall_e.decoder
import dall_e.encoder
import open_clip
import pytest
import torch
from PIL import Image

from clipgen.models.parameterisations.catalogue import GENERATORS
from clipgen.models.parameterisations.vqgan import VQModel

pytestmark = pytest.mark.slow
# Not Linux's ru_maxrss: a child takes its parent's over, here that of a whole pytest session.
PEAK = (
    "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')), file=sys.stderr)"
    if sys.platform == "linux"
    else "import resource as r; print(r.getrusage(r.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)"
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A cache folder as if everything had been downloaded, and a CLIP of one's own."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    encoder, decoder = dall_e.encoder.Encoder(), dall_e.decoder.Decoder()
    decoder.blocks.output.conv.w.data *= 30  # pictures, not one grey
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        (folder / "dvae").mkdir(exist_ok=True)
        torch.save(module, folder / "dvae" / f"{name}.pkl")
    vqgan = "vqgan_imagenet_f16_16384"
    net = VQModel(**GENERATORS[vqgan].config)
    net.codebook.data.normal_()
    state = net.state_dict() | {"loss.discriminator.main.0.weight": torch.zeros(64, 3)}
    (folder / vqgan).mkdir()
    torch.save({"state_dict": state, "global_step": 1}, folder / vqgan / "last.ckpt")
    torch.save(open_clip.create_model("ViT-B-32", pretrained=None).state_dict(), folder / "ViT-B-32.pt")
    return folder


@pytest.mark.parametrize("generator", ["dvae", "vqgan_imagenet_f16_16384"])
def test_command_line(generator, published, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPGEN_CACHE", str(published))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = f"import sys; from clipgen.cli import main; code = main(); {PEAK}; sys.exit(code)"
    command = [
        "a cat",
        "--generator",
        generator,
        "--perceptor",
        f"ViT-B-32/{published / 'ViT-B-32.pt'}",
        "--size",
        "256x256",
        "--steps",
        "3",
        "--every",
        "1",
        "--lr",
        "20",
        "--quiet",
    ]
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "a-cat.gif") as film:
        assert film.size == (256, 256) and film.n_frames >= 3
    megabytes = float(done.stderr.split()[-1]) / 1024
    print(f"{generator}: {megabytes:.0f} MB at most")
    assert megabytes < 4000
