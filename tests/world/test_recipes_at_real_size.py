"""The recipes with models of the published size and random weights: what CLIP is shown, and how the latent moves."""

import json

import pytest

import clipgen
from clipgen.cli import main
from clipgen.runs.presets import PRESETS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("recipe", ["murdock-dalle", "crowson"])
def test_a_step_shows_clip_as_many_views_and_moves_the_latent(recipe, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPGEN_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    clip = f"ViT-B-32/{cache / 'ViT-B-32.safetensors'}"
    run = clipgen.Run("a city | a blur:-0.5", recipe=recipe, perceptor=clip, size=(64, 64), steps=1, folder=tmp_path)
    perceptor, shown, before = run.models.perceptors[0][0], [], []
    look = perceptor.encode_image

    def encode_image(images, *kept):
        if hasattr(run, "optimization"):  # before, it is only measured
            shown.append(tuple(images.shape))
            before.append(run.optimization.latent.detach().clone())
        return look(images, *kept)

    monkeypatch.setattr(perceptor, "encode_image", encode_image)
    assert [frame.step for frame in run][-1] == 1
    preset = PRESETS[recipe]
    assert shown == [(preset["cutouts"], 3, 224, 224)]
    assert type(run.optimization.optimizer).__name__ == preset.get("optimizer", "Adam")
    moved = (run.optimization.latent - before[0]).abs()
    assert moved.max() > 0 and run.image.size == (64, 64)
    assert moved.max() <= 1.5 * preset["lr"], "about the rate, as Adam's steps are"


def test_the_command_of_the_issue(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPGEN_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["a city in the style of Van Gogh", "--recipe", "nerdyrodent", "--size", "64x64", "--steps", "1", "--quiet"]
    words += ["--perceptor", f"ViT-B-32/{cache / 'ViT-B-32.safetensors'}", "-o", str(tmp_path / "city.png")]
    monkeypatch.chdir(tmp_path)
    assert main(words) == 0
    settings = json.loads(next(tmp_path.glob("clipgen-runs/*/settings.json")).read_text())
    asked = PRESETS["nerdyrodent"] | {"recipe": "nerdyrodent", "size": [64, 64], "steps": 1}
    assert {name: settings[name] for name in asked if name != "perceptor"} == {
        name: value for name, value in asked.items() if name != "perceptor"
    }
