"""Settings that save work: each in a real run, which goes on after a stop to the frames that it would have had."""

import json
from dataclasses import replace
from types import SimpleNamespace

import open_clip
import pytest
import torch

import clipgen
from clipgen import memory
from clipgen.errors import ClipgenError
from clipgen.runs.frames import History
from clipgen.runs.settings import build

KNOBS = {"steps": 8, "every": 2, "size": (64, 64), "init": "perlin", "cutouts": 4, "seed": 3}


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """The name of a small ViT in a file of one's own."""
    folder = tmp_path_factory.mktemp("vit")
    config = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }
    (folder / "little-vit.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("little-vit").state_dict(), folder / "little-vit.pt")
    return f"little-vit/{folder / 'little-vit.pt'}"


def equal_after_a_stop(folder, prompt="a cat", at=5, **knobs):
    """A run that was stopped and resumed has the frames of one that was not, which is returned."""
    whole = clipgen.generate(prompt, folder=folder, progress=False, **KNOBS | knobs)
    run = clipgen.Run(prompt, folder=folder, like=whole, **KNOBS | knobs)
    for frame in run:
        if frame.step >= at:
            run.stop()
    again = clipgen.Run.resume(run.journal.folder, like=whole)
    list(again)
    assert (
        again.finished and again.journal.steps == whole.journal.steps and again.journal.scores == whole.journal.scores
    )
    for one, other in zip(whole.journal.frames(), again.journal.frames(), strict=True):
        assert one.tobytes() == other.tobytes() and one.size == other.size
    replayed = clipgen.Run.replay(again.journal.folder, folder=folder, like=whole)
    list(replayed)
    assert replayed.image.tobytes() == whole.image.tobytes()
    return whole


@pytest.mark.slow
def test_patch_dropout(vit, tmp_path):
    run = equal_after_a_stop(tmp_path, perceptor=vit, patch_dropout=0.5)
    assert run.journal.settings["patch_dropout"] == 0.5
    plain = clipgen.generate("a cat", folder=tmp_path, like=run, progress=False, perceptor=vit, **KNOBS)
    assert plain.image.tobytes() != run.image.tobytes()
    seen = run.views(4, progress=False)
    assert seen.score == pytest.approx(run.journal.scores[2]["clip"], abs=1e-5), "the same patches"


def test_memory_is_planned_for_the_patches_that_are_shown(vit, tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, perceptor=vit, **KNOBS)
    next(iter(run))
    recipe, half = run.optimization.spec, replace(run.optimization.spec.cutouts, patch_dropout=0.5)
    assert memory.cutout_bytes(replace(recipe, cutouts=half)) < 0.7 * memory.cutout_bytes(recipe)


def test_patch_dropout_is_refused_by_who_has_no_patches(vit, tmp_path):
    with pytest.raises(ClipgenError, match=r"patch_dropout=0.5: mini .* no patches; choose a ViT"):
        clipgen.Run("a cat", folder=tmp_path, patch_dropout=0.5)
    with pytest.raises(ClipgenError, match=r"patch_dropout=0.5@0-9: mini"):
        clipgen.Run("a cat", folder=tmp_path, patch_dropout="0.5@0-9", perceptor=f"{vit} | mini")
    run = clipgen.Run("a cat", folder=tmp_path)
    with pytest.raises(ClipgenError, match=r"patch_dropout=0.5: mini"):
        run.change(patch_dropout=0.5)


@pytest.mark.slow
def test_a_run_ends_when_its_picture_has_settled(tmp_path):
    """Nothing changes with the smallest learning rate."""
    still = {"steps": 40, "lr": 1e-12, "settled": 0.5}
    run = equal_after_a_stop(tmp_path, at=3, **still)
    assert run.step == 6 and [row["change"] for row in run.journal.scores] == [255, 0, 0, 0]
    assert clipgen.Run.resume(run.journal.folder, like=run).finished
    moving = clipgen.generate("a cat", folder=tmp_path, like=run, progress=False, **KNOBS | still | {"lr": 1.0})
    assert moving.step == 40
    plain = clipgen.generate("a cat", folder=tmp_path, like=run, progress=False, **KNOBS | still | {"settled": 0.0})
    assert plain.step == 40 and "change" not in plain.journal.scores[0]


@pytest.mark.slow
def test_without_a_word_about_steps_the_embedded_run_ends_when_it_has_settled(tmp_path):
    assert build("a cat", {}).settled == 2 and build("a cat", {"generator": "mini-vqgan"}).settled == 1
    for asked in ({"steps": 120}, {"settled": 0.0}, {"generator": "mini-dvae"}, {"recipe": "das"}):
        assert not build("a cat", asked).settled
    run = clipgen.generate("a cat", folder=tmp_path, progress=False, lr=1e-12, cutouts=2, every=4, size=(32, 32))
    assert run.finished and run.step == 16


@pytest.mark.parametrize(
    ("prompt", "knobs", "changes", "end"),
    [
        ("a cat", {}, [], 6),
        ("a cat@0-9 | a dog@7-", {}, [], 14),
        ("a cat@0-99", {}, [], 6),
        ("a cat", {"tv": "0@0-20, 1@20-"}, [], 24),
        ("a cat", {}, [{"step": 5, "lr": 0.1}], 10),
    ],
    ids=["plain", "story", "without end", "schedule", "steered"],
)
def test_a_picture_has_not_settled_while_something_is_new_or_will_be(prompt, knobs, changes, end):
    rows = [{"step": step, "clip": 0.5, "change": 255 if step == 1 else 0.1} for step in (1, *range(2, 41, 2))]
    settings = {"prompt": prompt, "steps": 40, "settled": 0.25, **knobs}
    journal = SimpleNamespace(scores=rows, settings=settings, changes=changes)
    assert next(row["step"] for row in rows if History(journal, until=row["step"]).should_stop) == end
    less = SimpleNamespace(scores=rows, settings=settings | {"settled": 0.2}, changes=changes)
    assert not History(less).should_stop, "two frames in a tenth of the steps change too much"
