"""What runs do on a CUDA card, tried on a pretended one (``pretend.py``) in a process of its own."""

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
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card that need not be pretended")
@pytest.mark.parametrize("cases", ["pictures.py", "counts.py"])
def test_on_a_pretended_card(cases, tmp_path):
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'runs'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CLIPGEN_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([*command, HERE / cases], env=environment, text=True, stdout=subprocess.PIPE)
    assert not done.returncode, done.stdout
