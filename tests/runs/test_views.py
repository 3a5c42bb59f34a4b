"""The views of a step are those that the loop used, whatever the run was like."""

import math
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import clipgen
from clipgen import inspect as seeing
from clipgen.runs.spec import RunSpec

SMALL = {"size": (64, 48), "cutouts": 3, "every": 2, "steps": 5, "init": "perlin", "lr": 0.6}


class Watch:
    """What a perceptor was shown, a list of views for every step."""

    def __init__(self, monkeypatch, run):
        self.shown, self.run = {}, run
        for perceptor, _ in run.models.perceptors:
            monkeypatch.setattr(perceptor, "encode_image", self.watching(perceptor.encode_image))

    def watching(self, encode):
        def encode_image(images, *kept):
            if torch.is_grad_enabled() and hasattr(self.run, "optimization"):  # before, it is only measured
                self.shown.setdefault(self.run.optimization.step + 1, []).append(images.detach().clone())
            return encode(images, *kept)

        return encode_image


def watched(monkeypatch, folder, prompt="a cat", **knobs):
    """A run, and what its loop showed to CLIP."""
    run = clipgen.Run(prompt, folder=folder, **(SMALL | knobs))
    with monkeypatch.context() as patch:
        watch = Watch(patch, run)
        list(run)
    return run, watch.shown


def same(seen, shown):
    assert len(seen.views) == sum(map(len, shown))
    by_size = {}
    for images in shown:
        for image in images:
            by_size.setdefault(image.shape[-1], []).append(image)
    for size, images in by_size.items():
        views = [view.pixels for view in seen.views if view.pixels.shape[-1] == size]
        assert torch.equal(torch.stack(views), torch.stack(images))


KINDS = {
    "plain": {},
    "spots, stops and a story": {"prompt": "a cat@0-4:1:0.5 | a dog@2- | fire [right]:0.5 | grey:-0.5"},
    "an ensemble": {"perceptor": "mini | evaluator:0.5"},
    "in parts": {"passes": 2, "averaged": 0.5, "combine": "embeddings", "prompt": "a cat | a hat:0.5 | blue:-1"},
    "tokens that are drawn": {"generator": "mini-dvae", "relax": "sample"},
    "relaxed tokens": {"generator": "mini-dvae", "relax": "gumbel"},
    "a camera, and numbers that change": {"camera": "zoom=1.1", "cutouts": "2@0-3, 4@3-", "padding": "grey"},
    "a mask and a loss": {"mask": "left", "near": 0.0, "tv": 0.5, "augment": "erase, colour, perspective, grain"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_views_are_those_the_loop_used(kind, tmp_path, monkeypatch):
    knobs = dict(KINDS[kind])
    run, shown = watched(monkeypatch, tmp_path, knobs.pop("prompt", "a cat"), **knobs)
    rows = {row["step"]: row["clip"] for row in run.journal.scores}
    for step in (1, 4, 5, 2):  # forwards, and back again
        seen = run.views(step, progress=False)
        same(seen, shown[step])
        assert seen.step == step and sum(view.pull for view in seen.views) == pytest.approx(1)
        if step in rows:
            assert seen.score == pytest.approx(rows[step], abs=1e-5), "that of the frame"
    if "an ensemble" in kind:
        assert [view.perceptor for view in seen.views] == ["mini"] * 3 + ["evaluator"] * 3
    if "spots" in kind:
        assert [view.where for view in seen.views] == [""] * 3 + ["right"] * 3


@pytest.mark.slow
def test_steering_and_going_on_after_a_stop(tmp_path, monkeypatch):
    run = clipgen.Run("a cat", folder=tmp_path, **(SMALL | {"steps": 8, "camera": "x=0.05"}))
    with monkeypatch.context() as patch:
        shown = Watch(patch, run).shown
        for frame in run:
            if frame.step == 2:
                run.change(prompt="fire", cutouts=4)
            if frame.step == 4:
                run.change(lr=0.1)
                run.stop()
        assert run.step == 4 and not run.finished
        same(run.views(3, progress=False), shown[3])
    run = clipgen.Run.resume(run.journal.folder, like=run)
    with monkeypatch.context() as patch:
        later = Watch(patch, run).shown
        for frame in run:
            if frame.step == 6:
                run.change(augment="")
    for step in range(1, 9):
        same(run.views(step, progress=False), (shown | later)[step])
    again = clipgen.Run.resume(run.journal.folder, like=run)
    same(again.views(7, progress=False), later[7])


def test_a_camera_moves_on_where_patience_ended_and_a_change_went_on(tmp_path, monkeypatch):
    still = {"steps": 8, "camera": "x=0.2", "patience": 2, "lr": 1e-12, "every": 1, "cut_min": 1.0, "cut_max": 1.0}
    run = clipgen.Run("a cat", folder=tmp_path, **(SMALL | still))
    with monkeypatch.context() as patch:
        shown = Watch(patch, run).shown
        for _ in run:
            if run.finished and not run.journal.changes:
                run.change(prompt="fire")
    changed_at = run.journal.changes[0]["step"]
    assert changed_at < run.step
    same(run.views(changed_at + 1, progress=False), shown[changed_at + 1])


def test_frames_after_the_saved_state_have_no_views(tmp_path):
    run, _ = watched(pytest.MonkeyPatch(), tmp_path, every=1)
    tensors, values = run.optimization.state()
    run.journal.save_state(3, tensors, values)  # as a run whose state is large is found when it is killed
    found = clipgen.Run(RunSpec.open(run.journal.folder, resume=True), like=run)
    film = Image.open(found.export(tmp_path / "views.gif", what="views", hold=0))
    assert film.n_frames == 3 and Image.open(found.export(tmp_path / "film.gif")).n_frames > 3


def test_an_interrupted_look_does_not_spoil_the_next(tmp_path, monkeypatch):
    run, shown = watched(monkeypatch, tmp_path)
    run.views(2, progress=False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kind = type(run.models.generator)  # each look has a generator of its own, with the same weights
        patch.setattr(kind, "project_", lambda self, latent: signal.raise_signal(signal.SIGINT))
        run.views(4, progress=False)
    signal.signal(signal.SIGINT, before)
    same(run.views(4, progress=False), shown[4])


@pytest.mark.slow
def test_looking_changes_nothing(tmp_path):
    runs = [clipgen.Run("a cat", folder=tmp_path, **SMALL) for _ in range(2)]
    for frame in runs[0]:
        runs[0].views(frame.step, progress=False)
    list(runs[1])
    assert [f.tobytes() for f in runs[0].journal.frames()] == [f.tobytes() for f in runs[1].journal.frames()]


@pytest.mark.slow
def test_scores_and_pulls_by_hand(tmp_path):
    """Each view alone: its cosine, and the norm of what it leaves on the picture."""
    run = clipgen.Run("a cat:2 | grey:-1", folder=tmp_path, **(SMALL | {"cutouts": 5}))
    list(run)
    seen, (perceptor, _) = run.views(5, progress=False), run.models.perceptors[0]
    target = perceptor.embed_text(["a cat"])[0]
    for view in seen.views:
        assert view.score == pytest.approx(float(perceptor.encode_image(view.pixels[None])[0] @ target), abs=1e-5)
    optimization = run._inspector._repeated[1]
    whole, pulls = torch.zeros(3, 48, 64), []
    (loss, _) = optimization.spec.losses
    for i in range(5):
        rng = torch.Generator()
        rng.set_state(optimization.rng.get_state())
        image = optimization.spec.generator.image(optimization.latent, 4 / 5, rng).detach().requires_grad_()
        view = loss.cutouts.sample(image.shape, 64, rng).render(image, slice(i, i + 1))
        away = loss.distance(perceptor.encode_image(view), loss.embeddings[0])[0]
        ((2 * away[0] - away[1]) / 3 / 5).backward()
        pulls.append(float(image.grad.norm()))
        whole += image.grad[0]
    assert [view.pull for view in seen.views] == pytest.approx([pull / sum(pulls) for pull in pulls], rel=1e-3)
    assert float((seen.gradient - whole).norm() / whole.norm()) < 0.01, "up to what a batch rounds otherwise"


def test_prompts_that_push_away_give_no_score(tmp_path):
    run = clipgen.Run("a cat | fire [left]:-1", folder=tmp_path, **SMALL)
    list(run)
    seen = run.views(2, progress=False)
    assert [math.isnan(view.score) for view in seen.views] == [False] * 3 + [True] * 3
    assert seen.gradient[:, :, :20].norm() > 0 and seen._repr_png_().startswith(b"\x89PNG")


def test_a_sheet_glows_where_the_prompts_pull(tmp_path):
    run = clipgen.Run("fire [right]", folder=tmp_path, **SMALL)
    list(run)
    seen = run.views(3, progress=False)
    warm = np.asarray(seen.overlay, float)[..., 0] - np.asarray(seen.overlay, float)[..., 2]
    assert warm[:, 40:].mean() > warm[:, :24].mean() + 20
    assert seen.sheet().width > 2 * seeing.CELL and seen.beside().size == (2 * seeing.SIDE, seeing.SIDE)


@pytest.mark.parametrize("step", [0, 6])
def test_there_are_views_of_steps_that_are_made(step, tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    list(run)
    with pytest.raises(
        clipgen.ClipgenError,
        match=f"step={step}: (views exist for steps 1 to 5|must be .* at least 1)",
    ):
        run.views(step)


def test_a_run_of_another_machine_is_told(tmp_path):
    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    list(run)
    table = run.journal.folder / "scores.csv"
    rows = table.read_text().splitlines()
    step, clip, rest = rows[2].split(",", 2)
    table.write_text("\n".join([*rows[:2], f"{step},{float(clip) + 0.1},{rest}", *rows[3:]]) + "\n")
    with pytest.warns(UserWarning, match="another machine or version"):
        run.views(2, progress=False)


@pytest.mark.slow
def test_a_film_of_the_picture_and_its_views(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = clipgen.Run("a cat", folder=tmp_path, **(SMALL | {"cutouts": "2@0-3, 9@3-"}))
    list(run)
    film = Image.open(run.export("views.gif", what="views"))
    assert film.n_frames == len(run.journal.steps) and film.size == (768, 384)
    run.export("views.png", what="views")
    assert Image.open("views.png").tobytes() == run.views(5, progress=False).beside().tobytes()
    with pytest.raises(clipgen.ClipgenError, match="what='latents': choose one of: picture, views"):
        run.export("no.gif", what="latents")
