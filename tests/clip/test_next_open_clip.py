"""The lists of published weights, of the installed open_clip and of its next version, which lists sounds, too."""

import json
import shutil
import sys

import pytest

from clipgen.cli import main
from clipgen.clip import published
from clipgen.clip.catalogue import find_family
from clipgen.clip.tokenizer import open_clip_folder
from clipgen.errors import ClipgenError
from clipgen.storage.remote import cached

SOUND = "CLAP-HTSAT-tiny-Roberta-base"
# As in open_clip's main branch of June 2026: a model of sounds among the pretrained ones, and OpenAI's weights on the
# hub alone.
NEXT = f"""
_PRETRAINED["{SOUND}"] = {{"laion": _pcfg(hf_hub="laion/clap-htsat-unfused/pytorch_model.bin")}}
for _tags in _PRETRAINED.values():
    if "openai" in _tags:
        _tags["openai"]["url"] = ""
"""
CONFIG = {
    "embed_dim": 512,
    "audio_cfg": {"model_type": "HTSAT", "model_name": "tiny", "sample_rate": 48000, "mel_bins": 64},
    "text_cfg": {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"},
}


@pytest.fixture(params=["installed", "next"])
def version(request, tmp_path, monkeypatch):
    """A version of open_clip that is found and not imported yet."""
    folder = tmp_path / "packages" / "open_clip"
    shutil.copytree(open_clip_folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    if request.param == "next":
        with (folder / "pretrained.py").open("a") as file:
            file.write(NEXT)
        (folder / "model_configs" / f"{SOUND}.json").write_text(json.dumps(CONFIG))
    monkeypatch.syspath_prepend(folder.parent)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("open_clip", "_open_clip_lists")]:
        monkeypatch.delitem(sys.modules, name)
    published._pretrained.cache_clear()
    yield request.param
    published._pretrained.cache_clear()
    for name in [name for name in sys.modules if name.startswith("_open_clip_lists")]:
        del sys.modules[name]


def test_only_models_of_pictures_are_listed(version, cache, capsys):
    names = {name for name, _ in published.open_clip_lists().list_pretrained()}
    assert (SOUND in names) == (version == "next")
    assert names - {name for name, _ in published.list_published()} == names & {SOUND}
    assert main(["models", "clap"]) == 0 and "no generator or perceptor" in capsys.readouterr().out
    assert main(["models", "openai"]) == 0 and "ViT-L-14-336/openai" in capsys.readouterr().out
    with pytest.raises(ClipgenError, match=f"perceptor='{SOUND}/laion': .*`clipgen models`"):
        find_family(f"{SOUND}/laion")


def test_openais_weights_come_from_the_hub_or_from_openai(version):
    remote = published.find_remote("ViT-L-14-336", "openai")
    assert remote.sources[0].startswith("hf:timm/vit_large_patch14_clip_336.openai/")
    assert remote.sha256 == "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"
    assert remote.sources[-1].endswith(f"/{remote.sha256}/ViT-L-14-336px.pt")
    every = [pair for pair in published.list_published() if pair[1] == "openai"]
    assert len(every) >= 9
    assert all(published.find_remote(*pair).sources[-1].startswith("https://openaipublic.") for pair in every)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_in_the_cache_is_found_under_the_name_of_either_version(suffix, version, cache, capsys):
    file = cache / f"clip/ViT-B-32-openai{suffix}"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PK\3\4")
    assert cached(published.find_remote("ViT-B-32", "openai")) == file
    assert main(["models", "ViT-B-32/openai"]) == 0 and " cached" in capsys.readouterr().out
