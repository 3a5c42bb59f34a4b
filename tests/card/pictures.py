"""Runs on a pretended card whose pictures are the CPU's, within a level of 255. Started by ``test_card.py``."""

import weakref
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from pretend import Card
from safetensors.torch import save_file

import clipgen
from clipgen import device as devices
from clipgen.cutouts.sampling import AUGMENTATIONS
from clipgen.generators.vae import TAESD
from clipgen.mini import drafts
from clipgen.priors import sampling
from clipgen.runs import spec
from clipgen.runs.presets import PRESETS
from clipgen.storage.weights import cache_folder

PROMPT = "a bee | gold:0.5 [top] | blurry:-0.3"
SMALL = {"steps": 2, "every": 1, "cutouts": 2, "size": (64, 64), "seed": 1, "init": "noise", "precision": "fp32"}
BUILT_IN = {"vqgan_imagenet_f16_1024": "mini-vqgan", "vqgan_imagenet_f16_16384": "mini-vqgan", "dvae": "mini-dvae"}
OTHERS = {"reno", "token-opt"}  # recipes of generators that no built-in one stands in for
CASES = {
    "stack": {},
    "pixels, all augmentations, one target": {
        "generator": "pixels",
        "augment": ", ".join(name for name in AUGMENTATIONS if name != "erase_all"),
        "combine": "embeddings",
        "averaged": 0.5,
        "passes": 2,
    },
    "spectrum, tiled and masked": {"generator": "fft", "tile": True, "mask": "bottom", "near": 0.0},
    "strokes, moving camera": {"generator": "strokes:6", "camera": "zoom=1.1"},
    "shapes": {"generator": "shapes:6"},
    "pen": {"generator": "pen:6"},
    "VQGAN with a judge": {"generator": "mini-vqgan", "judge": "evaluator"},
    "VQGAN, not quantised": {"generator": "mini-vqgan", "relax": "none"},
    "VQGAN, clamped": {"generator": "mini-vqgan", "relax": "none:6"},
    "dVAE": {"generator": "mini-dvae"},
    "dVAE, Gumbel softmax": {"generator": "mini-dvae", "relax": "gumbel"},
    "dVAE, one token drawn": {"generator": "mini-dvae", "relax": "sample"},
    "TAESD, moving camera": {"generator": "taesd", "camera": "zoom=1.05, angle=2"},
    "draft": {"init": "dalle", "size": (128, 128)},
    "near in pixels": {"init": "perlin", "near_space": "pixels", "near": 2.0},
    "near in lines": {"init": "perlin", "near_space": "colouring", "near": 2.0},
    "near as CLIP sees it": {"init": "perlin", "near_space": "clip", "near": 2.0},
    "regularisers": {"tv": 0.1, "saturation": 0.2, "symmetry": 0.3, "sharpness": 0.4, "palette": "navy, #ffcc00"},
    "growing": {"generator": "mini-vqgan", "size": "48x48@0-1, 64x64@1-"},
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
        patch.setattr(drafts, "TRIES", 1)
        yield


def keep_results(function):
    results = {}

    def call(*args):
        key = tuple(map(str, args))
        if key not in results:
            results[key] = function(*args)
        return results[key]

    return call


@contextmanager
def noise_of_a_card():
    """Let the CPU draw noise as a card does, from a generator of its own for each step."""

    def fork(rng, device):
        return torch.Generator().manual_seed(devices.draw_seed(rng))

    with mock.patch.object(devices, "fork_rng", fork):
        yield


def pictures(**settings):
    run = clipgen.generate(PROMPT, progress=False, **SMALL | settings)
    return [np.asarray(frame, int) for frame in run.journal.frames()], run


@pytest.mark.parametrize("name", [*CASES, *(name for name in PRESETS if name not in OTHERS)])
def test_the_frames_are_those_of_the_cpu(name, tmp_path):
    settings = CASES.get(name) or (of_recipe(name) if name in PRESETS else {})
    with noise_of_a_card():
        on_cpu, _ = pictures(folder=tmp_path, device="cpu", **settings)
    with Card():
        on_card, _ = pictures(folder=tmp_path, device="cuda", **settings)
    for frame, expected in zip(on_card, on_cpu, strict=True):
        assert np.abs(frame - expected).max() <= 1 and expected.std() > 1


def test_a_resumed_run_goes_on_to_the_same_frames(tmp_path):
    settings = {"folder": tmp_path, "device": "cuda", "generator": "mini-dvae", "relax": "gumbel", "steps": 4}
    with Card():
        whole, _ = pictures(**settings)
        run = clipgen.Run(PROMPT, **SMALL | settings)
        for frame in run:
            if frame.step == 2:
                run.stop()
        resumed = clipgen.finish(clipgen.Run.resume(run.journal.folder), progress=False)
        for frame, expected in zip(resumed.journal.frames(), whole, strict=True):
            assert np.array_equal(frame, expected)


def test_a_prior_leaves_the_card_once_its_draft_is_drawn(tmp_path, monkeypatch):
    priors, load = [], sampling.load_prior

    def load_prior(*args):
        priors.append(weakref.ref(prior := load(*args)))
        return prior

    monkeypatch.setattr(sampling, "load_prior", load_prior)
    with Card():
        run = clipgen.Run("a moon", folder=tmp_path, device="cuda", **SMALL | {"init": "dalle"})
        next(iter(run))
        assert priors and not any(prior() for prior in priors)


def test_what_looks_at_pictures(tmp_path):
    answers = {}
    for device in ("cpu", "cuda"):
        with noise_of_a_card() if device == "cpu" else Card():
            _, run = pictures(folder=tmp_path, device=device)
            report = run.views(2, progress=False)
            words = clipgen.describe(run.image, ["a bee", "a cat", "gold"], pictures=[run.image], device=device)
            heat = clipgen.explain(run.image, "a bee", device=device).map
            answers[device] = [view.score for view in report.views], dict(words.words), heat
    (scores, words, heat), (card_scores, card_words, card_heat) = answers.values()
    assert scores == pytest.approx(card_scores, abs=1e-3)
    assert words == pytest.approx(card_words, abs=1e-2)
    assert torch.allclose(heat, card_heat, atol=0.02)
