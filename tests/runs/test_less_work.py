"""Settings that save work: each in a real run, which goes on after a stop to the frames that it would have had."""

import json

import open_clip
import pytest
import torch

import clipgen
from clipgen.errors import ClipgenError

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


def test_patch_dropout(vit, tmp_path):
    run = equal_after_a_stop(tmp_path, perceptor=vit, patch_dropout=0.5)
    assert run.journal.settings["patch_dropout"] == 0.5
    plain = clipgen.generate("a cat", folder=tmp_path, like=run, progress=False, perceptor=vit, **KNOBS)
    assert plain.image.tobytes() != run.image.tobytes()
    seen = run.views(4, progress=False)
    assert seen.score == pytest.approx(run.journal.scores[2]["clip"], abs=1e-5), "the same patches"


def test_patch_dropout_is_refused_by_who_has_no_patches(vit, tmp_path):
    with pytest.raises(ClipgenError, match=r"patch_dropout=0.5: mini .* no patches; choose a ViT"):
        clipgen.Run("a cat", folder=tmp_path, patch_dropout=0.5)
    with pytest.raises(ClipgenError, match=r"patch_dropout=0.5@0-9: mini"):
        clipgen.Run("a cat", folder=tmp_path, patch_dropout="0.5@0-9", perceptor=f"{vit} | mini")
    run = clipgen.Run("a cat", folder=tmp_path)
    with pytest.raises(ClipgenError, match=r"patch_dropout=0.5: mini"):
        run.change(patch_dropout=0.5)
