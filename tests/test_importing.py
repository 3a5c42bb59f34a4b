"""What `import clipgen` brings, and who may know whom."""

import subprocess
import sys


def test_importing_is_quick_and_the_embedded_path_leaves_open_clip_alone():
    code = """
import sys, clipgen
heavy = {"torch", "numpy", "PIL", "ipywidgets", "matplotlib", "huggingface_hub"} & sys.modules.keys()
assert not heavy, f"import clipgen brings {heavy}"
clipgen.load_perceptor().embed_text(["a cat"])
clipgen.load_generator()
import clipgen.runs.run
assert not {"open_clip", "timm", "IPython"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
