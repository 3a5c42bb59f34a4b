"""What checkpoints name beside their tensors: settings of 2020 are let through and stay inert, whatever is tried."""

import argparse
import collections
import io
import pickle
import zipfile

import pytest
import torch
from omegaconf import OmegaConf

from clipgen.errors import ClipgenError
from clipgen.storage import pickles, weights

SETTINGS = OmegaConf.create(
    {"model": {"target": "taming.VQModel", "params": {"n_embed": 16384, "lr": 4.5e-6, "ch_mult": [1, 2], "ckpt": None}}}
)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_settings_of_omegaconf_and_argparse(protocol, legacy, tmp_path, cache):
    """At protocol 2 their types are ``__builtin__``'s, long and unicode among them; at 4 ``builtins``'."""
    tree = {
        "state_dict": {"weight": torch.arange(3.0)},
        "hyper_parameters": {"model": SETTINGS.model, "types": [int, str, dict, list, float, bool, tuple, set]},
        "hparams": argparse.Namespace(base=["a.yaml"], config=SETTINGS),
    }
    file = tmp_path / "last.ckpt"
    torch.save(tree, file, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    named = b"__builtin__\nlong" if protocol == 2 else b"builtins"
    assert named in file.read_bytes() and b"omegaconf" in file.read_bytes() and b"argparse" in file.read_bytes()
    assert weights.load_weights(weights.as_safetensors(file))[0]["weight"].tolist() == [0, 1, 2]


# --- by hand: opcodes that no honest pickler writes ---------------------------------------------------

PROTOCOL, NEWOBJ, REDUCE, BUILD, END, NOTHING, NONE = b"\x80\x02", b"\x81", b"R", b"b", b".", b")", b"N"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def tuple_of(*parts):
    return b"(" + b"".join(parts) + b"t"


def dict_of(**parts):
    return b"}(" + b"".join(text(key) + value for key, value in parts.items()) + b"u"


def tensor():
    """The opcodes of a tensor of the three numbers in storage 0."""
    pid = tuple_of(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), b"K\x03") + b"Q"
    one, three = tuple_of(b"K\x01"), tuple_of(b"K\x03")
    arguments = tuple_of(pid, b"K\x00", three, one, b"\x89", name("collections", "OrderedDict") + NOTHING + REDUCE)
    return name("torch._utils", "_rebuild_tensor_v2") + arguments + REDUCE


def checkpoint(file, **tree):
    """A file of ``torch.save`` with this tree and one storage of three numbers."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", PROTOCOL + dict_of(**tree) + END)
        archive.writestr("archive/data/0", torch.arange(3.0).numpy().tobytes())
    return file


NAMESPACE = name("argparse", "Namespace") + NOTHING + NEWOBJ
ORDERED = name("collections", "OrderedDict")
STAND_INS = [
    ("__builtin__", "dict"),
    ("builtins", "list"),
    ("__builtin__", "long"),
    ("builtins", "object"),
    ("argparse", "Namespace"),
    ("omegaconf.dictconfig", "DictConfig"),
    ("typing", "Any"),
    ("taming.models.vqgan", "VQModel"),
]


@pytest.mark.parametrize(("module", "attribute"), STAND_INS)
def test_a_stand_in_takes_everything_and_does_nothing(module, attribute, tmp_path, cache):
    """Called, made, filled, given a state: it is none of the things whose names it has."""
    made = name(module, attribute) + tuple_of(text("__import__('os').system('false')"), tensor()) + REDUCE
    filled = made + text("key") + tensor() + b"s" + text("item") + b"a" + b"(" + tensor() + b"e"
    built = name(module, attribute) + NOTHING + NEWOBJ + dict_of(flags=tensor()) + BUILD
    kinds = {"made": made, "filled": filled, "built": built}
    tree = pickle_of({key: PROTOCOL + value + END for key, value in kinds.items()})
    assert all(isinstance(value, pickles._Placeholder) for value in tree.values())
    assert type(tree["made"]).__mro__[1:] == (pickles._Placeholder, object) and not hasattr(tree["made"], "key")
    assert vars(tree["made"]) == vars(tree["filled"]) == {} and list(vars(tree["built"])) == ["flags"]
    file = checkpoint(tmp_path / "last.ckpt", state_dict=dict_of(weight=tensor()), **kinds)
    assert list(weights.load_weights(weights.as_safetensors(file))[0]) == ["weight"]


def pickle_of(streams):
    return {key: pickles._Unpickler(io.BytesIO(stream)).load() for key, stream in streams.items()}


HOOKS = ["__setstate__", "__class__", "__init__", "__setitem__", "append", "extend", "add", "__dict__", "__reduce__"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("slots", [False, True])
def test_no_attribute_takes_the_place_of_a_method(slots, hook):
    """A first state that sets ``__setstate__`` would have the second one called with what the file likes."""
    state = dict_of(**{hook: ORDERED, "harmless": b"K\x01"})
    twice = tuple_of(NONE, state) if slots else state
    stream = PROTOCOL + NAMESPACE + twice + BUILD + tuple_of(tuple_of(text("a"), b"K\x02")) + BUILD + END
    made = pickles._Unpickler(io.BytesIO(stream)).load()
    assert vars(made) == {"harmless": 1} and type(made).__mro__[1] is pickles._Placeholder


@pytest.mark.parametrize(
    ("what", "slots"),
    [
        (name("torch._utils", "_rebuild_tensor_v2"), {"__defaults__": NONE}),
        (name("torch._utils", "_rebuild_parameter"), {"__call__": ORDERED}),
        (name("argparse", "Namespace"), {"append": ORDERED}),
        (name("__builtin__", "dict"), {"__new__": ORDERED}),
        (ORDERED, {"items": ORDERED}),
        (name("torch", "FloatStorage"), {"itemsize": b"K\x01"}),
        (tensor(), {"count": b"K\x09"}),
        (tensor(), {"load": ORDERED}),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
def test_what_is_shared_cannot_be_changed(plain, what, slots, tmp_path, cache):
    before = {key: dict(vars(type(value))) for key, value in pickles._SAFE.items()}, dict(vars(pickles._Placeholder))
    state = dict_of(**slots) if plain else tuple_of(NONE, dict_of(**slots))
    file = checkpoint(tmp_path / "last.ckpt", weight=tensor(), evil=what + state + BUILD)
    with pytest.raises(ClipgenError, match="cannot be read as plain weights"):
        weights.as_safetensors(file)
    after = {key: dict(vars(type(value))) for key, value in pickles._SAFE.items()}, dict(vars(pickles._Placeholder))
    assert after == before and collections.OrderedDict([("a", 1)]).items()


def test_a_dictionary_that_lies_about_its_items(tmp_path, cache):
    """``torch.save`` gives state dicts attributes, so a file may; none is asked for what the dictionary holds."""
    lies = dict_of(items=name("argparse", "Namespace"), get=name("argparse", "Namespace"), keys=ORDERED)
    state = ORDERED + NOTHING + REDUCE + text("weight") + tensor() + b"s" + lies + BUILD
    file = checkpoint(tmp_path / "last.ckpt", state_dict=state)
    assert weights.load_weights(weights.as_safetensors(file))[0]["weight"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("__builtin__", "eval"),
        ("builtins", "getattr"),
        ("builtins", "dict.fromkeys"),
        ("builtins", "__import__"),
        ("argparse", "ArgumentParser"),
        ("argparse", "Namespace.__init__"),
        ("builtinsx", "dict"),
        ("omegaconfx", "DictConfig"),
        ("os", "system"),
    ],
)
def test_neighbours_of_the_names_are_refused(module, attribute):
    with pytest.raises(pickle.UnpicklingError, match=f"it asks for {module}"):
        pickle_of({"a": PROTOCOL + name(module, attribute) + END})


# --- small files that claim much ----------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_branches_that_stand_for_more_than_any_memory(legacy, tmp_path, cache):
    """Forty dictionaries, each twice in the next one: a million million entries in three kilobytes."""
    tree = {}
    for _ in range(40):
        tree = {"a": tree, "b": tree}
    torch.save(tree, tmp_path / "last.ckpt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ClipgenError, match="it has more than 1,000,000 entries"):
        weights.as_safetensors(tmp_path / "last.ckpt")


def test_a_branch_that_contains_itself(tmp_path, cache):
    tree = {}
    tree["a"] = tree
    torch.save(tree, tmp_path / "last.ckpt")
    with pytest.raises(ClipgenError, match="cannot be read as plain weights"):
        weights.as_safetensors(tmp_path / "last.ckpt")


@pytest.mark.parametrize(("names", "fits"), [(2, True), (300, False)])
def test_many_tensors_of_the_same_numbers(names, fits, tmp_path, cache):
    """Tied weights have two names; 300 copies of a file's numbers are more than a model needs."""
    file, weight = tmp_path / "last.ckpt", torch.arange(1000.0)
    torch.save({f"layer.{i}": weight for i in range(names)}, file)
    if fits:
        assert len(weights.load_weights(weights.as_safetensors(file))[0]) == names
        return
    with pytest.raises(ClipgenError, match="more than 4 times its own size"):
        weights.as_safetensors(file)
