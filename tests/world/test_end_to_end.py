"""The published architectures at their real size, with random weights in the published formats, through the CLI."""

import subprocess
import sys

import pytest
from PIL import Image

pytestmark = pytest.mark.slow
# Not Linux's ru_maxrss: a child takes its parent's over, here that of a whole pytest session.
PEAK = (
    "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')), file=sys.stderr)"
    if sys.platform == "linux"
    else "import resource as r; print(r.getrusage(r.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)"
)


@pytest.mark.parametrize(("generator", "side"), [("dvae", 128), ("vqgan_imagenet_f16_16384", 256)])
def test_command_line(generator, side, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPGEN_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = f"import sys; from clipgen.cli import main; code = main(); {PEAK}; sys.exit(code)"
    models = ["--generator", generator, "--perceptor", f"ViT-B-32/{cache / 'ViT-B-32.safetensors'}"]
    command = ["a cat", *models, "--size", f"{side}x{side}", "--steps", "2", "--every", "1", "--lr", "20", "--quiet"]
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "a-cat.gif") as film:
        assert film.size == (256, 256) and film.n_frames >= 2  # small pictures are enlarged
    megabytes = float(done.stderr.split()[-1]) / 1024
    print(f"{generator}: {megabytes:.0f} MB at most")
    assert megabytes < 4000
