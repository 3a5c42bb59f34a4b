"""Of a large download what a net needs is kept; the rest can go, and nothing else does."""

import io
import os
import pty
import subprocess
import sys
import time
import tracemalloc
from contextlib import redirect_stdout

import pytest
import torch

from clipgen.cli import main
from clipgen.errors import ClipgenError
from clipgen.storage import remote, weights
from clipgen.storage.remote import Remote

WANTED = ["first_stage_model.encoder.weight", "encoder.weight", "encoder.bias"]


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def big(request, server, tmp_path):
    """A download of which little is needed: a transformer's checkpoint with a small first stage, from the server."""
    state = {"transformer.weight": torch.randn(2000, 2000), "first_stage_model.encoder.weight": torch.arange(6.0)}
    torch.save({"state_dict": state}, tmp_path / "big.ckpt", _use_new_zipfile_serialization=request.param)
    server.files["/big.ckpt"] = (tmp_path / "big.ckpt").read_bytes()
    return Remote("sflckr/last.ckpt", (f"{server.address}/big.ckpt",), 16, bulky=True)


def clipgen_cache(*words, answer=None):
    """What ``clipgen cache`` says; with an ``answer``, at a terminal."""
    keyboard, screen = pty.openpty()
    if answer:
        os.write(keyboard, f"{answer}\n".encode())
    with open(screen) as terminal, redirect_stdout(io.StringIO()) as said, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", terminal if answer else io.StringIO())
        assert main(["cache", *words]) == 0
    os.close(keyboard)
    return said.getvalue()


def aged(file, hours=2, content=b"x" * 1000):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (time.time() - hours * 3600,) * 2)
    return file


@pytest.mark.slow
def test_what_is_needed_outlives_the_download(big, server, cache, capsys):
    file = remote.fetch(big)
    tracemalloc.start()
    tensors = remote.fetch_weights(big, WANTED)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(tensors) == [WANTED[0]] and tensors[WANTED[0]].tolist() == [0, 1, 2, 3, 4, 5]
    assert peak < 4e6, "the transformer's 16 MB are not read"
    copy = weights.converted_path(big.name)
    assert copy.stat().st_size < 1000
    said = capsys.readouterr().err
    assert f"{file} (16 MB) can be deleted" in said and "(0 MB); `clipgen cache --prune` does it" in said
    remote.fetch_weights(big, WANTED)
    assert "can be deleted" not in capsys.readouterr().err, "it is said once"

    listed = clipgen_cache()
    assert f"16.0 MB * {file}  (download, converted)" in listed and f"{copy}  (converted)" in listed
    assert "16.0 MB; not needed any more (*, what --prune deletes): 16.0 MB" in listed and file.exists()
    assert "Delete these?" in clipgen_cache("--prune", answer="n") and file.exists()
    assert "deleted: 1 file" in clipgen_cache("--prune") and not file.exists()

    assert remote.cached(big) == copy and remote.fetch_weights(big, WANTED).keys() == tensors.keys()
    assert len(server.log) == 1, "nothing is downloaded again"
    copy.unlink()
    assert remote.cached(big) is None and remote.fetch_weights(big, WANTED).keys() == tensors.keys()
    assert len(server.log) == 2
    assert "deleted: 1 file" in clipgen_cache("--prune", answer="y") and not file.exists()


def test_other_wants_are_converted_anew(big, cache):
    assert list(remote.fetch_weights(big, WANTED)) == WANTED[:1]
    assert list(remote.fetch_weights(big, ["transformer.weight"])) == ["transformer.weight"]
    assert len(remote.fetch_weights(big)) == 2
    with pytest.raises(ClipgenError, match=r"last\.ckpt: these weights are of another model, decoder\.weight and all"):
        remote.fetch_weights(big, ["decoder.weight"])


def test_a_download_that_changed_is_kept(big, cache):
    remote.fetch_weights(big, WANTED)
    torch.save({"encoder.weight": torch.ones(2)}, cache / big.name)
    assert remote.prune() == [] and remote.fetch_weights(big, WANTED)["encoder.weight"].tolist() == [1, 1]
    assert [item.file for item in remote.prune()] == [cache / big.name]


def test_what_is_left_over_goes_and_nothing_else(cache, tmp_path):
    """The user's own files in the folder and outside stay, whatever they are called and wherever links lead."""
    outside = aged(tmp_path / "outside" / ".last.ckpt.0123abcd.part")
    (cache / "converted").mkdir(parents=True)
    (cache / ".link.ckpt.0123abcd.part").symlink_to(outside)
    (cache / "linked").symlink_to(outside.parent)

    mine = tmp_path / "mine.ckpt"
    torch.save({"weight": torch.ones(3)}, mine)
    inside = aged(cache / "models" / "mine.ckpt", content=mine.read_bytes())
    serving = [weights.as_safetensors(inside), weights.as_safetensors(mine)]
    gone = aged(tmp_path / "gone.ckpt", content=mine.read_bytes())
    changed = aged(tmp_path / "changed.ckpt", content=mine.read_bytes())
    left = [weights.as_safetensors(gone), weights.as_safetensors(changed)]
    gone.unlink()
    os.utime(changed)
    left += [
        aged(cache / "dvae" / ".encoder.pkl.0123abcd.part"),
        aged(cache / "dvae" / ".encoder.pkl.0123abcd.etag"),
        aged(cache / "faceshq" / ".last.ckpt.0123abcd.hub" / ".cache" / "huggingface" / "faceshq.ckpt.incomplete"),
    ]
    kept = [
        *serving,
        inside,
        outside,
        aged(cache / "dvae" / ".decoder.pkl.0123abcd.part", hours=0.5),
        aged(cache / "dvae" / "decoder.pkl"),
        aged(cache / "converted" / "my own.safetensors"),
        aged(cache / "converted" / "last-0123456789ab.safetensors"),  # which clipgen did not write
        aged(cache / "notes.part"),
        aged(cache / "checksums.json", content=b"{}"),
    ]
    assert {item.file for item in remote.prune()} == set(left)
    assert all(file.exists() for file in kept) and not any(file.exists() for file in left)
    assert not (cache / "faceshq" / ".last.ckpt.0123abcd.hub").exists()
    assert (cache / "linked").is_symlink() and (cache / ".link.ckpt.0123abcd.part").is_symlink()
    assert not [item for item in remote.list_items() if item.deletable]


@pytest.mark.slow
def test_an_empty_cache(cache):
    command = [sys.executable, "-m", "clipgen", "cache"]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    assert said == "       0.0 MB; not needed any more (*, what --prune deletes): 0.0 MB\n"
    assert clipgen_cache("--prune") == clipgen_cache() == said
