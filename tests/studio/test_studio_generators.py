"""Another generator in the Studio: whatever it optimises, everything is done in the same way."""

import numpy as np
import pytest
from PIL import Image
from studio_hands import click, named, parts, png, put, running, until

import clipgen
from clipgen.export.html import to_url
from clipgen.runs.presets import PRESETS
from clipgen.runs.settings import defaults_for
from clipgen.studio.parts import Brush

PIXELS = ["pixels", "fft", "stack", "strokes"]


@pytest.mark.parametrize("generator", PIXELS)
def test_it_brings_what_suits_it_and_takes_it_away_again(generator, tmp_path):
    studio = clipgen.Studio("a red heart", folder=tmp_path, generator="mini-vqgan")
    put(studio, symmetry=0.5)
    before = studio.controls.values
    put(studio, generator=generator)
    suits = defaults_for("normal", generator)
    assert suits.keys() > {"steps", "cutouts"}, "of its own"
    assert studio.controls.values == before | {"generator": generator} | suits
    put(studio, quality="draft")
    assert studio.controls.values == before | {"generator": generator, "quality": "draft"} | defaults_for(
        "draft", generator
    )
    put(studio, quality="normal", generator="mini-vqgan")
    assert studio.controls.values == before


@pytest.mark.slow
@pytest.mark.parametrize("recipe", PRESETS)
def test_a_recipe_is_put_and_taken_away_again(recipe, tmp_path):
    studio = clipgen.Studio("a red heart", folder=tmp_path)
    put(studio, symmetry=0.5)
    before = studio.controls.values
    put(studio, recipe=recipe)
    assert studio.controls.values == before | {"recipe": recipe} | defaults_for("normal", "mini-vqgan", recipe)
    put(studio, tv=0.5, recipe="")
    assert studio.controls.values == before | {"tv": 0.5}
    studio.controls.put({"recipe": recipe, "generator": "mini-dvae", "lr": 0.3})
    asked = studio.controls.values
    assert (asked["recipe"], asked["generator"], asked["lr"]) == (recipe, "mini-dvae", 0.3), "what is asked for wins"


def test_what_is_asked_for_comes_before_what_suits(tmp_path):
    studio = clipgen.Studio("a red heart", folder=tmp_path, generator="stack", lr=0.7, cutouts=5)
    assert (studio.controls.values["lr"], studio.controls.values["cutouts"]) == (0.7, 5)


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_run_is_offered(studio):
    studio.controls.put({"generator": "models/mine.ckpt", "lr": 0.2})
    assert (studio.controls.values["generator"], studio.controls.values["lr"]) == ("models/mine.ckpt", 0.2)
    put(studio, generator="mini-dvae")
    assert "models/mine.ckpt" in named(studio.controls, "Generator")[0].options
    click(studio, "Generate")
    assert studio.wait().finished


@pytest.fixture(params=["mini-dvae", *PIXELS])
def other(request, studio):
    """A Studio where another generator was chosen."""
    put(studio, generator=request.param)
    put(studio, steps=8, cutouts=4, init="random")
    yield studio
    assert not studio.preview.error.value
    assert studio.job.run.models.generator.name == request.param


@pytest.mark.slow
def test_a_branch_starts_from_the_latent(other):
    click(other, "Generate")
    first = other.wait()
    assert first.finished and first.journal.steps == list(range(1, 9))
    other.preview.timeline.value = 3
    click(other, "Branch from here")
    branch = other.wait()
    assert branch.finished and branch.models is first.models
    (latent,) = branch.journal.inputs().values()
    assert latent.dtype == first.journal.latent(3).dtype and np.array_equal(latent, first.journal.latent(3))


@pytest.mark.slow
def test_a_mask_is_painted(other):
    click(other, "Generate")
    first = other.wait()
    named(other, "Paint a mask")[0].value = True
    half = Image.new("L", (64, 64))
    half.paste(255, (0, 0, 32, 64))
    (brush,) = parts(other, Brush)
    brush.mask = to_url(png(half), "image/png")  # as brush.js sets it
    named(other, "Prompt 1")[0].value = "a green tree"
    put(other, lr=1.0)
    click(other, "Branch from here")
    change = np.abs(np.subtract(other.wait().image, first.image, dtype=int, casting="unsafe")).max(-1)
    assert change[:, :32].mean() > 8 and change[:, 34:].max() <= 4, "at its edge it blends"


@pytest.mark.slow
def test_it_is_stopped_steered_and_resumed(other):
    run = running(other)
    put(other, lr=0.03)
    until(lambda: run.settings.lr == 0.03, "the change")
    click(other, "Stop")
    other.wait()
    stopped = run.journal.steps[-1]
    click(other.gallery, "Resume")
    until(lambda: other.job.run and other.job.run.step > stopped, "the resumed run")
    assert other.job.run.journal.folder == run.journal.folder and other.job.run.settings.lr == 0.03


def test_a_branch_to_another_generator_starts_from_the_picture(studio):
    click(studio, "Generate")
    first = studio.wait()
    put(studio, generator="mini-dvae", steps=2)
    studio.preview.timeline.value = 5
    click(studio, "Branch from here")
    branch = studio.wait()
    (picture,) = branch.journal.inputs().values()
    assert picture.tobytes() == first.journal.frame(5).tobytes() and branch.models.generator.name == "mini-dvae"
