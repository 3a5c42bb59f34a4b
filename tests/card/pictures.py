"""Runs on a card whose pictures are the CPU's, within a level of 255. Started by ``test_card.py``.

The card is a real one where there is one, which rounds otherwise: its pictures are the CPU's within a level on average.
"""

import math
import weakref
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from pretend import Card as PretendedCard
from safetensors.torch import save_file

import clipgen
from clipgen import device as devices
from clipgen import priors as priors_room
from clipgen.cutouts import AUGMENTATIONS
from clipgen.generators.vae import TAESD
from clipgen.mini import drafts
from clipgen.runs import frames as run_frames
from clipgen.runs import spec
from clipgen.runs.presets import PRESETS
from clipgen.storage.weights import cache_folder

PROMPT = "a bee | gold:0.5 [top] | blurry:-0.3"
SMALL = {"steps": 1, "every": 1, "cutouts": 2, "size": (64, 64), "seed": 1, "init": "noise", "precision": "fp32"}
BUILT_IN = {"vqgan_imagenet_f16_1024": "mini-vqgan", "vqgan_imagenet_f16_16384": "mini-vqgan", "dvae": "mini-dvae"}
OTHERS = {"reno", "token-opt"}  # recipes of generators that no built-in one stands in for
PICTURE = Image.linear_gradient("L").convert("RGB")
CASES = {
    "stack, all losses": {
        "steps": 2,
        "init": PICTURE,
        "near_space": "colouring",
        "fringes": 100.0,
        "tv": 0.1,
        "saturation": 0.2,
        "symmetry": 0.3,
        "sharpness": 0.4,
        "palette": "navy, #ffcc00",
    },
    "pixels, all augmentations, one target": {
        "generator": "pixels",
        "init": PICTURE,
        "near_space": "pixels",
        "augment": ", ".join(name for name in AUGMENTATIONS if name != "erase_all"),
        "combine": "embeddings",
        "averaged": 0.5,
        "passes": 2,
    },
    "spectrum, tiled and masked": {"generator": "fft", "tile": True, "mask": "bottom", "near": 0.0},
    "spectrum near a picture": {"generator": "fft", "init": PICTURE, "near_space": "clip"},
    "strokes, moving camera": {"generator": "strokes:6", "camera": "zoom=1.1", "steps": 2},
    "shapes": {"generator": "shapes:6"},
    "pen": {"generator": "pen:6"},
    "VQGAN, growing, with a judge": {
        "generator": "mini-vqgan",
        "size": "48x48@0-1, 64x64@1-",
        "judge": "evaluator",
        "steps": 2,
    },
    "VQGAN, not quantised, near a picture": {"generator": "mini-vqgan", "relax": "none", "init": PICTURE},
    "dVAE, Gumbel softmax": {"generator": "mini-dvae", "relax": "gumbel"},
    "dVAE, one token drawn": {"generator": "mini-dvae", "relax": "sample"},
    "TAESD, moving camera": {"generator": "taesd", "camera": "zoom=1.05, angle=2", "steps": 2},
}


def of_recipe(name):
    """The settings of a recipe, with built-in models and small."""
    preset = PRESETS[name]
    built_in = {"generator": BUILT_IN.get(preset["generator"], preset["generator"]), "perceptor": "mini"}
    return {"recipe": name, **built_in, "init": preset["init"]}


@pytest.fixture(scope="module", autouse=True)
def taesd():
    file = cache_folder() / "taesd/diffusion_pytorch_model.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_file(TAESD().state_dict(), file)


@pytest.fixture(scope="module", autouse=True)
def less_work():
    """Load each model once for the CPU and once for the card, in fp32; draw each draft once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spec, "load_perceptor", keep_results(spec.load_perceptor))
        patch.setattr(spec, "load_generator", keep_results(spec.load_generator))
        patch.setattr(devices, "best_precision", lambda *_: "fp32")  # of a draft, too
        patch.setattr(drafts, "MIN_LOG_LIKELIHOOD", -math.inf)
        patch.setattr(drafts, "DRAFTS", 1)
        yield


def keep_results(function):
    results = {}

    def call(*args):
        key = tuple(map(str, args))
        if key not in results:
            results[key] = function(*args)
        return results[key]

    return call


def fork_on_cpu(rng, device):
    return torch.Generator().manual_seed(devices.draw_seed(rng))


@contextmanager
def noise_of_a_card():
    """Let the CPU draw noise as a card does, from a generator of its own for each step."""
    with mock.patch.object(devices, "fork_rng", fork_on_cpu):
        yield


@contextmanager
def real_card():
    """A card that need not be pretended: it is given the CPU's noise, and computes fp32 in full."""

    def drawn_on_cpu(draw):
        def drawn(*shape, device="cpu", **options):
            return draw(*shape, **options).to(device)

        return drawn

    with pytest.MonkeyPatch.context() as patch, noise_of_a_card():
        patch.setattr(torch, "rand", drawn_on_cpu(torch.rand))
        patch.setattr(torch, "randn", drawn_on_cpu(torch.randn))
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        yield


IS_REAL = torch.cuda.is_available()
Card = real_card if IS_REAL else PretendedCard


def distance(picture, other):
    """Return how far two pictures are apart in levels of 255."""
    apart = np.abs(picture - other)
    return apart.mean() if IS_REAL else apart.max()


def pictures(**settings):
    run = clipgen.generate(PROMPT, progress=False, **SMALL | settings)
    return [np.asarray(frame, int) for frame in run.journal.frames()], run


@pytest.mark.parametrize("name", [*CASES, *(name for name in PRESETS if name not in OTHERS)])
def test_the_frames_are_those_of_the_cpu(name, tmp_path, record_property):
    settings = CASES.get(name) or of_recipe(name)
    with noise_of_a_card():
        on_cpu, _ = pictures(folder=tmp_path, device="cpu", **settings)
    with Card():
        on_card, _ = pictures(folder=tmp_path, device="cuda", **settings)
    distances = [distance(frame, expected) for frame, expected in zip(on_card, on_cpu, strict=True)]
    record_property("levels", float(max(distances)))
    assert max(distances) <= 1 and on_cpu[-1].std() > 1


def test_a_draft_is_that_of_the_cpu_and_its_prior_leaves_the_card(tmp_path, monkeypatch):
    priors, load = [], priors_room.load_prior

    def load_prior(*args):
        priors.append(weakref.ref(prior := load(*args)))
        return prior

    monkeypatch.setattr(priors_room, "load_prior", load_prior)
    settings = {"folder": tmp_path, "init": "dalle", "size": (128, 128)}
    with noise_of_a_card():
        (on_cpu,), _ = pictures(device="cpu", **settings)
    priors.clear()
    with Card():
        (on_card,), _ = pictures(device="cuda", **settings)
        assert priors and not any(prior() for prior in priors)
    assert distance(on_card, on_cpu) <= 1 and on_cpu.std() > 1


def test_a_resumed_run_goes_on_to_the_same_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(run_frames, "SMALL_STATE", 0)  # as one of large token logits is saved: at the end
    settings = {"folder": tmp_path, "device": "cuda", "generator": "mini-dvae", "relax": "gumbel", "steps": 3}
    with Card():
        run = clipgen.Run(PROMPT, **SMALL | settings)
        frames = iter(run)
        before = next(frames).image
        frames.close()  # as whoever has seen enough
        resumed = clipgen.Run.resume(run.journal.folder, like=run)
        assert resumed.step == 1 and resumed.journal.frame(1).tobytes() == before.tobytes()
        clipgen.finish(resumed, progress=False)
        whole, _ = pictures(like=run, **settings)
        for frame, expected in zip(resumed.journal.frames(), whole, strict=True):
            assert distance(np.asarray(frame, int), expected) <= (1 if IS_REAL else 0)


def test_what_looks_at_pictures(tmp_path):
    answers = {}
    for device in ("cpu", "cuda"):
        with noise_of_a_card() if device == "cpu" else Card():
            _, run = pictures(folder=tmp_path, device=device, generator="mini-dvae")
            report = run.views(1, progress=False)
            words = clipgen.describe(run.image, ["a bee", "a cat", "gold"], pictures=[run.image], device=device)
            heat = clipgen.explain(run.image, "a bee", device=device).map
            answers[device] = [view.score for view in report.views], dict(words.words), heat
    (scores, words, heat), (card_scores, card_words, card_heat) = answers.values()
    assert scores == pytest.approx(card_scores, abs=1e-3)
    assert words == pytest.approx(card_words, abs=1e-2)
    assert torch.allclose(heat, card_heat, atol=0.02)
