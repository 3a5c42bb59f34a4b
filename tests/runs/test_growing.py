"""Coarse to fine: a picture that grows in the middle of its run."""

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image
from torch.nn import functional as F

import clipgen
from clipgen.errors import ClipgenError
from clipgen.export import settings_of

SMALL = {"size": "32x48@0-3, 64x80@3-", "steps": 6, "every": 1, "cutouts": 3, "init": "random"}
GROWN = 3 * [(32, 48)] + 3 * [(64, 80)]
each_family = pytest.mark.parametrize("family", ["mini-vqgan", "mini-dvae", "pixels", "fft", "stack", "strokes:24"])


def made(folder, prompt="a red apple", **knobs):
    return clipgen.generate(prompt, folder=folder, progress=False, **(SMALL | knobs))


def frames(run):
    return [frame.tobytes() for frame in run.journal.frames()]


@pytest.mark.slow
@each_family
def test_stopped_in_either_part_or_replayed_it_is_the_same_film(family, tmp_path):
    knobs = SMALL | {"generator": family, "camera": "zoom=1.05", "judge": "evaluator"}
    whole = made(tmp_path, **knobs)
    assert [frame.size for frame in whole.journal.frames()] == GROWN
    parted = clipgen.Run("a red apple", folder=tmp_path, **knobs)
    for stop in (2, 3, 5, 6):  # before it grows, when it is about to, after it
        for frame in parted:
            if frame.step == stop:
                parted.stop()
        parted = clipgen.Run.resume(parted.journal.folder)
    again = clipgen.finish(clipgen.Run.replay(whole.journal.folder, folder=tmp_path), progress=False)
    assert frames(parted) == frames(again) == frames(whole)
    assert parted.journal.scores == again.journal.scores == whole.journal.scores


@pytest.mark.slow
@each_family
def test_what_grows_is_the_same_picture(family, tmp_path):
    run = clipgen.Run("a red apple", folder=tmp_path, generator=family, **SMALL)
    with run.session():
        assert run.prepare_step()
        optimization = run.optimization
        for _ in range(3):
            run.record_step(optimization.advance())
            small, state = optimization.render_frame(), optimization.optimizer.state
            assert run.prepare_step()
    large = F.interpolate(small, (80, 64), mode="bicubic", antialias=True).clamp(0, 1)
    assert optimization.step == 3 and state and not optimization.optimizer.state, "no step is made at the new size yet"
    assert (optimization.render_frame() - large).abs().mean() < (0.15 if family.startswith("mini") else 0.04)
    scores = optimization.advance()
    assert all(score.isfinite() for score in scores.values()) and optimization.render_frame().shape == large.shape


@pytest.mark.slow
def test_a_branch_begins_at_the_size_of_its_frame(tmp_path):
    run = made(tmp_path)
    for step, size in ((3, (32, 48)), (4, (64, 80))):
        branch = clipgen.finish(run.branch(step, steps=2, folder=tmp_path), progress=False)
        again = clipgen.finish(run.branch(step, steps=2, folder=tmp_path), progress=False)
        assert branch.settings.size == branch.image.size == size and frames(branch) == frames(again)
    assert run.branch(3, folder=tmp_path, size="32x48@0-2, 64x80@2-").settings.growth.sizes == ((32, 48), (64, 80))


@pytest.mark.slow
def test_what_the_settings_name_comes_at_every_size_from_where_it_came(tmp_path):
    """Half of a photograph stays: after the change as sharp as it is; masks, spots and goals fit; steered or not."""
    pixels = np.random.default_rng(0).integers(0, 256, (80, 64, 3), np.uint8)
    photo = Image.fromarray(pixels)
    prompt = "fire | the sea [left]"
    run = clipgen.Run(prompt, folder=tmp_path, **(SMALL | {"init": photo, "mask": "bottom", "judge": "evaluator"}))
    for frame in run:
        if frame.step in (2, 4):
            run.change(prompt=f"snow | a cat [right]:0.{frame.step}", near=2.0)
    (goal,) = run.optimization.spec.init_targets
    assert goal.image.shape == (1, 3, 80, 64)
    kept = np.asarray(run.image, float)[:40] - pixels[:40]
    assert abs(kept).max() <= 1, "not enlarged from the small one"
    again = clipgen.finish(clipgen.Run.replay(run.journal.folder, folder=tmp_path), progress=False)
    assert frames(again) == frames(run)
    for step in (3, 4):
        seen = run.views(step, progress=False)
        score = next(row["clip"] for row in run.journal.scores if row["step"] == step)
        assert seen.picture.size == GROWN[step - 1] and seen.score == pytest.approx(score, abs=1e-4)


@pytest.mark.slow
def test_pictures_made_together_grow_together(tmp_path):
    runs = clipgen.batch("a cat", 2, batch=2, folder=tmp_path, progress=False, **SMALL)
    alone = made(tmp_path, "a cat", seed=1)
    difference = np.asarray(runs[1].image, float) - np.asarray(alone.image, float)
    assert runs[1].image.size == (64, 80) and abs(difference).mean() < 2


@pytest.mark.slow
def test_films_are_as_large_as_the_last_frame(tmp_path):
    run = made(tmp_path, generator="shapes:24", steps=5)
    for suffix in ("gif", "webp", "mp4"):
        film = list(iio.imiter(run.export(tmp_path / f"a.{suffix}", hold=0)))
        assert {frame.shape[:2] for frame in film} == {(320, 256)} and len(film) == 5
        small, large = (film[i][::4, ::4, :3].astype(float) for i in (2, 3))
        assert abs(small - large).mean() < 20, "one picture, before it grew and after"
    page = run.export(tmp_path / "a.html").read_text()
    assert page.count('width="256" height="320"') == 5
    assert settings_of(tmp_path / "a.gif")["size"] == SMALL["size"]
    drawn = run.export(tmp_path / "a.svg", animate=True).read_text()
    assert 'viewBox="0 0 64 80"' in drawn and "<animate" in drawn
    assert run.export(tmp_path / "views.gif", what="views").exists()
    assert clipgen.strip([run.journal.frame(1), run.image], ["before", "after"]).height > 320


@pytest.mark.parametrize(
    ("size", "remedy"),
    [
        ("32x32@0-3, 60x60@3-", r"size=\(60, 60\): mini-dvae works in steps of 8 .* nearest is \(64, 64\)"),
        ("64x64@0-3, 32x32@3-", "several growing sizes"),
        ("32x64@0-3, 64x32@3-", "several growing sizes"),
        ("32x32@0-3, 32x32@3-", "several growing sizes"),
        ("32x32@0-4, 64x64@3-", "one after another"),
        ("32x32@2-4, 64x64@4-", "from step 0 on"),
        ("32x32@3-3", "write width x height"),
        ("32x32@0-3 64x64@3-", "write width x height"),
        ("large", "write width x height"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_loaded(size, remedy, tmp_path, monkeypatch):
    monkeypatch.setattr("clipgen.runs.spec.RunSpec.load_models", None)
    with pytest.raises(ClipgenError, match=remedy):
        clipgen.Run("a cat", generator="mini-dvae", folder=tmp_path, size=size)
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    with pytest.raises(ClipgenError, match="bring it to the same proportions"):
        clipgen.Run("a cat", folder=tmp_path, size="64x64@0-3, 64x80@3-", mask=str(tmp_path / "mask.png"))


def test_it_is_written_as_one_size_or_several():
    sizes = {"64": ((64, 64),), "64X48": ((64, 48),), "64@0-": ((64, 64),), "64@0-3,128x64@5-9": ((64, 64), (128, 64))}
    for text, wanted in sizes.items():
        settings = clipgen.runs.settings.build("a cat", {"size": text})
        assert settings.growth.sizes == wanted and (isinstance(settings.size, str) == (len(wanted) > 1))
    assert [settings.at(step).size for step in (0, 4, 5, 99)] == 2 * [(64, 64)] + 2 * [(128, 64)]
