"""What runs owe to the notebooks of 2021: recipes from the first step to the file, and defaults for their CLIPs."""

import json
import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import clipgen
from clipgen.cli import main
from clipgen.generators.catalogue import load_generator
from clipgen.images.reading import to_image
from clipgen.losses.prompt_loss import Targets, prompt_distance
from clipgen.optimizers import OptimizerConfig
from clipgen.runs.presets import PRESETS
from clipgen.runs.settings import build

README = Path(__file__).parents[2] / "README.md"
MINI = {"perceptor": "mini", "size": (64, 64), "cutouts": 4, "steps": 3, "every": 1, "progress": False}
DALLE = MINI | {"recipe": "murdock-dalle", "generator": "mini-dvae"}
VQGAN = MINI | {"recipe": "murdock-vqgan", "generator": "mini-vqgan"}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = np.linspace(0, 255, 80, dtype=np.uint8)
    pixels = np.stack([np.tile(rows, (60, 1)), np.full((60, 80), 90, np.uint8), np.tile(rows[::-1], (60, 1))], -1)
    Image.fromarray(pixels).save(tmp_path / "photo.png")


def pixels(image):
    return np.asarray(image, np.float32) / 255


@pytest.mark.parametrize("relax", ["gumbel:1.873:2", "gumbel:1.873", "gumbel:0.7"])
def test_the_mixture_is_what_is_shown_kept_and_exported(relax, tmp_path):
    run = clipgen.generate("a red apple", **DALLE | {"relax": relax})
    latent, model = run.optimization.latent.detach(), load_generator("mini-dvae")
    temperature, groups = float(relax.split(":")[1]), int(relax.count(":") > 1) + 1
    weights = (latent / temperature).unflatten(1, (-1, groups)).softmax(1).flatten(1, 2)
    with torch.no_grad():
        mixture = model.net.decode(torch.einsum("bkhw,kd->bdhw", weights, model.codebook)).clamp(0, 1)
    wanted = pixels(to_image(mixture[0]))
    assert wanted.std() > 0.01
    assert np.abs(pixels(run.image) - wanted).mean() < 0.01
    run.export(tmp_path / "apple.png")
    exported = Image.open(tmp_path / "apple.png").convert("RGB").resize((64, 64), Image.Resampling.NEAREST)
    assert np.abs(pixels(exported) - wanted).mean() < 0.01
    again = run.branch(run.step, steps=1, lr=1e-12)
    assert np.abs(pixels(next(iter(again)).image) - wanted).mean() < 0.01


def test_one_that_hardens_ends_in_tokens():
    run = clipgen.generate("a red apple", **MINI | {"generator": "mini-dvae", "relax": "gumbel", "init": "random"})
    tokens = run.journal.latent(run.step)
    assert tokens.shape == (8, 8) and tokens.dtype.kind == "i"
    model = load_generator("mini-dvae")
    with torch.no_grad():
        wanted = to_image(model.image(model.from_tokens(torch.from_numpy(tokens)[None].long()))[0])
    assert np.abs(pixels(run.image) - pixels(wanted)).mean() < 0.01


@pytest.mark.parametrize("relax", ["gumbel:0", "gumbel:1:0", "gumbel:1:2.5", "gumbel:1:2:3", "gumbel:1:3", "none:6:2"])
def test_numbers_that_a_relaxation_cannot_have(relax):
    with pytest.raises(clipgen.ClipgenError, match="relax="):
        clipgen.generate("a red apple", **MINI | {"generator": "mini-dvae", "relax": relax})


@pytest.mark.parametrize("name", PRESETS)
def test_a_picture_to_start_from_is_no_goal_of_a_recipe(name):
    near = 0.05 / 12 if name == "token-opt" else 0  # its source pulls to the seed
    models = {"generator": "mini-dvae" if "dalle" in name else "mini-vqgan" if name != "das" else "stack"}
    asked = MINI | models | {"recipe": name, "init": "photo.png"}
    assert clipgen.Run("a cat", **{k: v for k, v in asked.items() if k != "progress"}).settings.near == near
    held = clipgen.generate("a cat", **asked | {"near": 2.0, "steps": 1})
    assert held.settings.near == 2 and len(held.optimization.spec.init_targets) == 1


def test_the_old_spelling_of_murdock(tmp_path):
    options = {name: value for name, value in DALLE.items() if name != "progress"} | {"folder": tmp_path}
    run = clipgen.Run("a cat", **options)
    old = clipgen.Run("a cat", **options | {"recipe": "murdoch-dalle"})
    assert old.settings == run.settings
    for _ in run:
        run.stop()
    file = run.journal.folder / "settings.json"
    file.write_text(file.read_text().replace("murdock-dalle", "murdoch-dalle"))
    assert clipgen.Run.resume(run.journal.folder).settings == run.settings


def test_what_to_stay_away_from():
    usual = clipgen.Run("a cat", **{k: v for k, v in DALLE.items() if k != "progress"})
    assert [prompt.weight for prompt in usual.prompts] == [1, -0.5]
    assert "incoherent" in usual.prompts[1].text
    for negative, weights in [("fog", [1, -0.5]), ("fog:0.2", [1, -0.2]), ("fog:-2 | rain", [1, -2, -0.5]), ("", [1])]:
        run = clipgen.Run("a cat", negative=negative, **{k: v for k, v in DALLE.items() if k != "progress"})
        assert [prompt.weight for prompt in run.prompts] == weights
    run = clipgen.Run("a cat | fog:-0.3", **{k: v for k, v in DALLE.items() if k != "progress"})
    assert [prompt.weight for prompt in run.prompts] == [1, -0.3], "who says something of it gets that alone"
    with pytest.raises(clipgen.ClipgenError, match="weight"):
        clipgen.Run("a cat", negative="fog:nan")


@pytest.mark.slow
def test_staying_away_is_a_prompt_that_pushes():
    """The same run with either spelling; and what it is can be changed while it goes on."""
    asked = MINI | {"generator": "mini-vqgan", "init": "random"}
    one = clipgen.generate("a cat", negative="fog", **asked)
    two = clipgen.generate("a cat | fog:-0.5", **asked)
    other = clipgen.generate("a cat", **asked)
    assert np.array_equal(one.image, two.image) and not np.array_equal(one.image, other.image)
    run = clipgen.Run("a cat", **{k: v for k, v in asked.items() if k != "progress"})
    frames = iter(run)
    next(frames)
    run.change(negative="fog")
    assert len(list(frames)) == 2 and [prompt.text for prompt in run.prompts] == ["a cat", "fog"]


@pytest.mark.parametrize(("weight", "stop"), [(1.0, 0.9), (-1.0, -0.9), (-1.0, 0.9), (-0.3, -1.2), (2.0, 1.2)])
def test_a_stop_ends_a_push_too(weight, stop):
    """The notebooks': the distance times the weight's sign, and no gradient where that is below the stop."""
    torch.manual_seed(0)
    embed = torch.nn.functional.normalize
    targets, ours = embed(torch.randn(1, 4), dim=1), torch.randn(64, 4, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    weights, stops = torch.tensor([weight]), torch.tensor([stop])
    prompt_distance(embed(ours, dim=1), Targets(targets, weights, stops)).backward()
    half = (embed(theirs, dim=1) - targets).norm(dim=1) / 2
    signed = 2 * half.arcsin() ** 2 * (1 if weight > 0 else -1)
    bound = torch.tensor(stop if weight > 0 else -abs(stop))
    torch.maximum(signed, bound).mean().backward()
    assert 5 < int((signed > bound).sum()) < 60, "some are moved, some are not"
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)


@pytest.fixture
def published(tmp_path):
    """The name of a CLIP that is not embedded, of random weights."""
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    config = {"embed_dim": 32, "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "patch_size": 32}}
    (tmp_path / "founding-vit.json").write_text(json.dumps(config | {"text_cfg": text}))
    open_clip.add_model_config(tmp_path / "founding-vit.json")
    torch.save(open_clip.create_model("founding-vit").state_dict(), tmp_path / "weights.pt")
    return f"founding-vit/{tmp_path / 'weights.pt'}"


@pytest.mark.parametrize("form", ["{}", "mini | {}", "{} | mini", "{}:2 | mini:0.5"])
def test_a_published_clip_alone_has_the_settings_of_das(form, published):
    with pytest.warns(UserWarning, match="VQGAN") as told:
        run = clipgen.Run("a cat", perceptor=form.format(published))
    assert sum("VQGAN" in str(one.message) for one in told) == 1
    das = {k: v for k, v in PRESETS["das"].items() if k != "perceptor"}
    assert {name: getattr(run.settings, name) for name in das} == das


def test_what_is_asked_for_beside_a_published_clip_wins(published):
    with pytest.warns(UserWarning, match="VQGAN"):
        run = clipgen.Run("a cat", perceptor=published, size=(64, 64), steps=7, cutouts=3)
    assert (run.settings.size, run.settings.steps, run.settings.cutouts) == ((64, 64), 7, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = clipgen.Run("a cat", perceptor=published, generator="mini-vqgan")
        assert (run.settings.steps, run.settings.init) == (120, "random")
        one, two = (
            clipgen.Run("a cat", perceptor=names, generator="mini-vqgan").settings
            for names in (f"mini | {published}", f"{published} | mini")
        )
        assert one.init == two.init
        assert clipgen.Run("a cat").settings.init == "dalle"


@pytest.mark.parametrize(("asked", "share"), [({"generator": "dvae"}, 0.95), ({"recipe": "murdock-dalle"}, 0.75)])
def test_logits_move_at_their_rate(asked, share):
    """Their gradients' median is 2.4e-9 at 512x512: less than what Adam usually adds to it."""
    settings = build("a cat", asked)
    latent = torch.zeros(1, 4, 2, 2, requires_grad=True)
    latent.grad = torch.full_like(latent, 2.4e-9)
    settings.select(OptimizerConfig).create(latent).step()
    assert share < float(-latent.detach().mean()) / settings.lr <= 1


EXAMPLES = re.findall(r"^clipgen .*--recipe murdock-\w+$", README.read_text(), re.MULTILINE)


def test_both_examples_are_in_the_readme():
    assert {re.search(r"murdock-\w+", line)[0] for line in EXAMPLES} == {"murdock-dalle", "murdock-vqgan"}


@pytest.mark.parametrize("line", EXAMPLES)
def test_the_founding_notebooks_examples(line, tmp_path):
    """As they stand, with the embedded models instead of the published ones."""
    generator = "mini-dvae" if "dalle" in line else "mini-vqgan"
    less = f"--generator {generator} --perceptor mini --size 64x64 --steps 3 --cutouts 8 --quiet -o made.png"
    assert main([*shlex.split(line)[1:], *less.split()]) == 0
    settings = json.loads(next(tmp_path.glob("clipgen-runs/*/settings.json")).read_text())
    assert settings["negative"] and settings["combine"] == "embeddings" and settings["near"] == 0
    assert Image.open(tmp_path / "made.png").size[0] >= 64
