"""Damaged and hostile files of a run: a ClipgenError that names the file, or success, and nothing else."""

import copy
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save

import clipgen
from clipgen.export import export
from clipgen.runs.journal import Journal

SMALL = {"generator": "pixels", "init": "random", "size": (32, 32), "cutouts": 2, "steps": 3, "every": 1}
ODD = [
    None, True, -1, 0, 1.5, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "x", "a@-", "\ud800", "\0", [], [1],
    [0, 0], [1e9, -1], ["a", "b"], {}, {"a": 1}, [[[[[[[[[[1]]]]]]]]]], "0@0-1, 5@1-", "32x32@0-1, 64x64@1-",
    "x" * 9999,
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was changed and stopped after two of its three steps."""
    made = clipgen.Run("a cat:2 | a dog@0-2", folder=tmp_path_factory.mktemp("runs"), **SMALL)
    for frame in made:
        if frame.step == 1:
            made.change(lr=0.1, mask="top")
        if frame.step == 2:
            made.stop()
    return made


@pytest.fixture
def copied(run, tmp_path):
    """A function that gives a fresh copy of the run's folder."""

    def fresh():
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return Path(shutil.copytree(run.journal.folder, tmp_path / "run"))

    return fresh


def replaced(value, share=8):
    """JSON with each of its values, in turn, replaced by some of ODD, another selection for each."""
    places = list(_places(value))
    for i, place in enumerate(places):
        for odd in ODD[i % share :: share]:
            whole = copy.deepcopy(value)
            inner = whole
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = odd
            yield whole


def _places(value, place=()):
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*place, key)
        yield from _places(value[key], (*place, key))


def attempt(folder, like, again=False):
    """Whether a run goes on, or is made again, and what it has can be looked at; a ClipgenError names the folder."""
    try:
        run = (
            clipgen.Run.replay(folder, folder=folder.parent, like=like)
            if again
            else clipgen.Run.resume(folder, like=like)
        )
        if run.settings.steps == 3 and run.settings.cutouts <= 2 and max(sum(run.settings.growth.sizes, ())) <= 64:
            for _ in run:
                pass
    except clipgen.ClipgenError as error:
        assert (str(folder) in str(error) or "init: a latent of" in str(error)) and "\n" not in str(error)
        return False
    return True


def look(folder):
    """What is shown of a run without making any of it."""
    try:
        journal = Journal.open(folder)
        assert isinstance(journal.settings_and_changes["prompt"], str) and journal.inputs() == {}
        list(journal.frames())
    except clipgen.ClipgenError as error:
        assert str(folder) in str(error)


def test_settings(run, copied, tmp_path):
    saved, results = json.loads((run.journal.folder / "settings.json").read_text()), []
    for i, hostile in enumerate(replaced(saved, len(ODD))):
        folder = copied() if i == 0 or results[-1] else tmp_path / "run"  # what fails has changed nothing
        (folder / "settings.json").write_text(json.dumps(hostile))
        look(folder)
        results.append(attempt(folder, run, again=i % 2))
    assert 1 < sum(results) < len(results) / 2, "some values can be meant, most cannot"


def test_changes(run, copied):
    for hostile in replaced([json.loads((run.journal.folder / "changes.jsonl").read_text())]):
        folder = copied()
        (folder / "changes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in hostile))
        look(folder)
        attempt(folder, run)


def test_settings_that_a_picture_carries(run, tmp_path):
    saved = run.journal.settings_and_changes
    hostile = [saved | {"changes": odd} for odd in ODD[1:]] + [saved | {"prompt": odd} for odd in ODD[:-1:3]]
    hostile += [saved | {"changes": [{"step": odd, "lr": 0.1}]} for odd in ODD[::2]]
    for settings in hostile:
        export([Image.new("RGB", (32, 32))], file := tmp_path / "sent.png", settings)
        attempt(file, run, again=True)


def test_states(run, copied):
    file = run.journal.folder / "state.safetensors"
    tensors = load_file(file)
    with safe_open(file, "pt") as stored:
        notes = json.loads(stored.metadata()["state"])
    states = [(tensors, hostile) for hostile in replaced(notes, 20)]
    states += [(tensors, {key: value for key, value in notes.items() if key != less}) for less in notes]
    for name, tensor in tensors.items():
        states.append(({key: value for key, value in tensors.items() if key != name}, notes))
        shapes = torch.zeros(()), torch.zeros(1, 3, 7, 7), tensor.to(torch.int8)
        states += [(tensors | {name: other}, notes) for other in shapes]
    went_on = 0
    for hostile, said in states:
        folder = copied()
        (folder / "state.safetensors").write_bytes(save(hostile, {"state": json.dumps(said)}))
        went_on += attempt(folder, run)
    assert 0 < went_on < len(states)


def packed(array):
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def header(shape):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return out.getvalue() + bytes(100)


ARRAYS = {
    "another shape": packed(np.zeros((1, 3, 7, 7), np.float16)),
    "two": packed(np.zeros((2, 3, 32, 32), np.float16)),
    "a row": packed(np.zeros(5)),
    "tokens": packed(np.zeros((3, 3), np.uint16)),
    "words": packed(np.zeros((3, 3), "U5")),
    "complex": packed(np.zeros((3, 3), complex)),
    "dates": packed(np.zeros((3, 3), "M8[s]")),
    "records": packed(np.zeros((2, 2), [("a", int)])),
    "objects": packed(np.array([{}, []], object)),
    "nothing": packed(np.zeros((0, 3))),
    "one number": packed(np.array(3)),
    "five dimensions": packed(np.zeros((1, 1, 1, 1, 1))),
    "20 terabytes": header((10**6, 10**7)),
    "beyond 64 bits": header((2**62, 8)),
    "an endless header": b"\x93NUMPY\x01\x00\xff\xff" + b"[" * 65535,
    "half a header": b"\x93NUMPY",
    "no array": b"x",
    "empty": b"",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run that starts from a latent."""
    start = np.full((1, 3, 32, 32), 0.1, np.float16)
    return clipgen.Run("a cat", folder=tmp_path_factory.mktemp("runs"), **SMALL | {"init": start})


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays(case, saved, run, tmp_path):
    folder = Path(shutil.copytree(saved.journal.folder, tmp_path / "run"))
    next(folder.glob("inputs/*.npy")).write_bytes(ARRAYS[case])
    (folder / "latents/00001.npy").write_bytes(ARRAYS[case])
    assert not attempt(folder, run)
    try:
        Journal(folder).latent(1)
    except clipgen.ClipgenError as error:
        assert str(folder) in str(error)


TEXTS = [
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b"\xff\xfe",
    b"1" * 5000,
    b"null",
    b'"x"',
    b"NaN",
    b"[1]",
    b"{}",
    b'{"x.png": 3}',
]


@pytest.mark.parametrize("name", ["settings.json", "changes.jsonl", "inputs/names.json"])
def test_texts(name, run, copied):
    for text in TEXTS:
        folder = copied()
        (folder / name).write_bytes(text)
        look(folder)
        assert not attempt(folder, run) or (name, text) == ("inputs/names.json", b"{}")


@pytest.mark.parametrize("names", [{"\0": "\0"}, {"x.png": "../../x"}, {"x.png": ""}, {"x.npy": "x.png"}, {"a": None}])
def test_names_of_inputs(names, run, copied):
    folder = copied()
    (folder / "inputs/names.json").write_text(json.dumps(names))
    assert not attempt(folder, run)
