"""Files that mean harm, or are broken: none runs anything, each is refused, and the cache stays clean."""

import collections
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import clipgen
from clipgen.errors import ClipgenError
from clipgen.generators.catalogue import GENERATORS
from clipgen.generators.vqgan import VQModel
from clipgen.storage import weights
from clipgen.storage.remote import Remote


class Evil:
    """Unpickled the ordinary way, it calls a function."""

    def __init__(self, function, *args):
        self.what = function, args

    def __reduce__(self):
        return self.what


def refused(file, cache, says):
    with pytest.raises(ClipgenError, match=says) as caught:
        weights.as_safetensors(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert not list(cache.rglob("*.*")), "nothing is left in the cache"


@pytest.mark.parametrize("container", ["zip", "legacy", "bare"])
@pytest.mark.parametrize("attack", ["system", "eval", "exec", "load", "setattr", "apply"])
def test_a_pickle_cannot_call(attack, container, tmp_path, cache):
    marker = tmp_path / "ran"
    command = f"touch {marker}"
    evil = {
        "system": Evil(os.system, command),
        "eval": Evil(eval, f"__import__('os').system({command!r})"),
        "exec": Evil(exec, f"import os; os.system({command!r})"),
        "load": Evil(torch.hub.load_state_dict_from_url, f"file://{marker}"),
        "setattr": Evil(setattr, torch.nn.Module, "forward", None),
        "apply": Evil(torch.Tensor.apply_, torch.zeros(1), print),
    }[attack]
    state = collections.OrderedDict(weight=torch.ones(3), evil=evil)
    file = tmp_path / "model.ckpt"
    if container == "bare":
        file.write_bytes(pickle.dumps({"state_dict": {"evil": evil}}, protocol=2))
    else:
        torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=container == "zip")
    refused(file, cache, "not a file of torch.save|it asks for|cannot be read")
    assert not marker.exists() and torch.nn.Module.forward is not None


def test_the_attack_is_real(tmp_path):
    """The same file does run its command when it is read as people used to read checkpoints."""
    torch.save({"evil": Evil(os.system, f"touch {tmp_path / 'ran'}")}, tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_names_of_known_packages_do_nothing(tmp_path, cache):
    """What is let through by its package's name is not imported, let alone called."""
    command = f"import os; os.system('touch {tmp_path / 'ran'}')\n".encode()
    body = b"\x80\x02}(X\x01\x00\x00\x00wcnumpy.testing._private.utils\nruncode\nX" + len(command[:-1]).to_bytes(
        4, "little"
    )
    body += command[:-1] + b"\x85Ru."
    file = tmp_path / "model.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", body)
    refused(file, cache, "no weights in this file")
    assert not (tmp_path / "ran").exists()


def test_zip_bomb(tmp_path, cache):
    torch.save({"weight": torch.ones(4)}, tmp_path / "small.pt")
    file = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(tmp_path / "small.pt") as source,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in source.infolist():
            data = source.read(entry)
            bomb.writestr(entry.filename, b"\0" * 200_000_000 if "/data/" in entry.filename else data)
    assert file.stat().st_size < 1_000_000
    refused(file, cache, "compressed")


def test_a_tensor_larger_than_its_numbers(tmp_path, cache):
    torch.save({"weight": torch.zeros(1).expand(10**12)}, tmp_path / "huge.pt")
    refused(tmp_path / "huge.pt", cache, "does not fit into 1 numbers")


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_anywhere(legacy, tmp_path, cache):
    torch.save(
        {"a": torch.ones(3000), "b": torch.ones(50)}, tmp_path / "whole.pt", _use_new_zipfile_serialization=not legacy
    )
    whole = (tmp_path / "whole.pt").read_bytes()
    for cut in {0, 1, 10, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1}:
        file = tmp_path / f"cut-{cut}.pt"
        file.write_bytes(whole[:cut])
        refused(file, cache, "cannot be read as plain weights")


def test_a_loop_of_references(tmp_path, cache):
    tree = {"weight": torch.ones(2)}
    tree["again"] = tree
    torch.save(tree, tmp_path / "loop.pt")
    refused(tmp_path / "loop.pt", cache, "cannot be read")


def test_not_a_checkpoint(tmp_path, cache):
    for name, content in (("empty.ckpt", b""), ("text.ckpt", b"hello\n" * 99), ("page.ckpt", b"<html>404</html>")):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, cache, "cannot be read as plain weights")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "other.zip", cache, "holds no data.pkl")
    torch.save({"epoch": 3, "name": "nothing"}, tmp_path / "nothing.pt")
    refused(tmp_path / "nothing.pt", cache, "no weights in this file")
    with pytest.raises(ClipgenError, match="no such file"):
        weights.as_safetensors(tmp_path / "nowhere.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ClipgenError, match="not a safetensors file"):
        weights.load_weights(tmp_path / "bad.safetensors")


def test_a_wrong_architecture_is_not_half_loaded(tmp_path, cache, monkeypatch):
    net = VQModel(n_embed=16, embed_dim=4, z_channels=4, ch=32, ch_mult=(1, 1), num_res_blocks=1)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    wrong = before | {"decoder.conv_in.weight": torch.zeros(3, 3), "extra": torch.zeros(1)}
    del wrong["quant_conv.bias"]
    with pytest.raises(ClipgenError) as caught:
        weights.assign_weights(net, wrong, "model.ckpt")
    for part in ("model.ckpt", "quant_conv.bias is missing", "extra is not part", "decoder.conv_in.weight is (3, 3)"):
        assert part in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    # and through the front door: a dVAE's file where a VQGAN's belongs
    file = cache / "coco" / "last.ckpt"
    file.parent.mkdir(parents=True)
    torch.save({"blocks.input.w": torch.zeros(3, 3, 7, 7)}, file)
    with pytest.raises(ClipgenError, match=r"last\.ckpt: these weights are of another model, encoder\.conv_in\.weight"):
        clipgen.load_generator("coco")
    assert not (cache / "converted").exists()


def test_over_the_declared_size(cache, monkeypatch):
    file = Remote("dvae/encoder.pkl", ("https://example.invalid/x",), 0.1)
    monkeypatch.setitem(GENERATORS, "dvae", replace(GENERATORS["dvae"], files=(file,)))
    file = cache / "dvae" / "encoder.pkl"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\0" * 2_000_000)
    with pytest.raises(ClipgenError, match=r"2000000 bytes are more than dvae/encoder\.pkl has"):
        clipgen.load_generator("dvae")


def test_the_second_read_is_of_the_copy(tmp_path, cache, monkeypatch):
    file = tmp_path / "model.pt"
    torch.save({"state_dict": {"w": torch.arange(4.0), "half": torch.ones(2).half(), "loss.x": torch.ones(9)}}, file)
    copy = weights.as_safetensors(file)
    tensors, _ = weights.load_weights(copy)
    assert tensors["w"].tolist() == [0, 1, 2, 3] and tensors["half"].dtype == torch.float32 and "loss.x" not in tensors
    file.write_bytes(file.read_bytes())  # the same content, newly written: read again
    assert weights.as_safetensors(file) != copy
    views = torch.arange(12.0).view(3, 4)
    torch.save({"t": views.T, "row": views[1]}, file)
    tensors, _ = weights.load_weights(weights.as_safetensors(file))
    assert torch.equal(tensors["t"], views.T) and tensors["row"].tolist() == [4, 5, 6, 7]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what a process maps is told by Linux only")
def test_a_part_of_a_net_stays_on_the_disk_until_it_is_used_and_goes_when_it_is_replaced(tmp_path):
    file = tmp_path / "net.safetensors"
    parts = {"encoder.weight": (100, 100), "decoder.weight": (100, 100), "decoder.bias": (100,)}
    save_file({name: torch.ones(shape) for name, shape in parts.items()}, file)

    def maps():
        return Path("/proc/self/maps").read_text().count(str(file))

    tensors, _ = weights.load_weights(file)
    assert maps() == 2
    del tensors["decoder.weight"]
    assert maps() == 1 and tensors["decoder.bias"].sum() == 100 and tensors["encoder.weight"].sum() == 10_000


def test_a_weight_called_scale_is_kept_and_one_of_eight_bits_is_scaled(tmp_path):
    file = tmp_path / "scales.safetensors"
    rows = {"rows": torch.tensor([[1, -2]], dtype=torch.int8), "rows.scale": torch.tensor([[0.5]], dtype=torch.half)}
    save_file(rows | {"norm": torch.ones(2, 2), "norm.scale": torch.full((3,), 2.0)}, file)
    tensors, _ = weights.load_weights(file)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "rows": [[0.5, -1]],
        "norm": [[1, 1], [1, 1]],
        "norm.scale": [2, 2, 2],
    }


def test_a_scale_that_does_not_fit(tmp_path):
    save_file({"rows": torch.zeros(1, 2, dtype=torch.int8), "rows.scale": torch.ones(3)}, tmp_path / "a.safetensors")
    with pytest.raises(ClipgenError, match=r"a\.safetensors: this is not"):
        weights.load_weights(tmp_path / "a.safetensors")
