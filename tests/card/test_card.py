"""What runs do on a CUDA card, in a process of its own: on a real one, or on a pretended one (``pretend.py``)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or torch.version.cuda is None, reason="needs a CUDA build of torch on Linux"
)
def test_on_a_card(tmp_path):
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'runs'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CLIPGEN_CACHE": str(tmp_path / "cache")}
    files = [HERE / name for name in ("pictures.py", "counts.py", "published.py")]
    done = subprocess.run([*command, *files], env=environment, text=True, stdout=subprocess.PIPE)
    assert not done.returncode, done.stdout
