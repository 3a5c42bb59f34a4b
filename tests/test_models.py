"""``python -m clipgen models`` and the registry behind it."""

import subprocess
import sys

import open_clip
import pytest

from clipgen.cli import main
from clipgen.clip.named import NAMED
from clipgen.clip.openclip import list_published, remote
from clipgen.generators.catalogue import GENERATORS


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
    assert "they are not probabilities" in text and "its gradient draws shapes" in text
    assert rows["dvae"].endswith(" -") and rows["mini-vqgan"].endswith("built-in") and "none needed" in rows["stack"]
    for file in ("dvae/encoder.pkl", "dvae/decoder.pkl"):
        (cache / file).parent.mkdir(parents=True, exist_ok=True)
        (cache / file).write_bytes(b"x")
    assert main(["models", "DVAE"]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["dvae"].endswith(" cached") and "mini-dvae" in rows and not {"stack", "RN50/openai"} & rows.keys()


def test_checksums_are_those_that_publishers_write_into_addresses():
    assert remote("ViT-B-32", "openai").sha256.startswith("40d365715913c9da98579312b702a82c")
    assert remote("RN50", "yfcc15m").sha256 == "455df137"
    assert (
        remote("ViT-B-32", "openai").sources[0]
        == "hf:timm/vit_base_patch32_clip_224.openai/open_clip_model.safetensors"
    )
    assert all(remote(a, t).sources for a, t in list_published())
    assert all(
        source.startswith(("hf:", "https://")) for e in GENERATORS.values() for f in e.files for source in f.sources
    )
