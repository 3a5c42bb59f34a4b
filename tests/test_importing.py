"""What `import clipgen` brings, and who may know whom."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_importing_is_quick_and_the_embedded_path_leaves_open_clip_alone(tmp_path):
    code = """
import gc, sys, clipgen
heavy = {"torch", "numpy", "PIL", "ipywidgets", "matplotlib", "huggingface_hub"} & sys.modules.keys()
assert not heavy, f"import clipgen brings {heavy}"
clipgen.load_perceptor().embed_text(["a cat"])
clipgen.load_generator()
next(iter(clipgen.Run("a cat", steps=2, cutouts=2, size=(32, 32))))
assert gc.isenabled()
brought = {"open_clip", "timm", "IPython", "torch._dynamo", "sympy", "ftfy"} & sys.modules.keys()
assert not brought, f"a run brings {brought}"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
