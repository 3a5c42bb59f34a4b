"""A judge guides nothing, and says which frame is best, and when it is enough."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tqdm import auto

import clipgen
from clipgen.cli import main
from clipgen.export import settings_of
from clipgen.images.sheets import enlarge
from clipgen.losses.prompt_loss import clip_score
from clipgen.runs.frames import History
from clipgen.runs.journal import Journal
from clipgen.runs.settings import Settings

SMALL = {"size": (64, 64), "cutouts": 4, "every": 2, "init": "perlin", "lr": 0.6}
STORY = "a cat:2 | a dog@0-8 | fire:0.5@6- | grey:-0.5 | blue [left]:0.7"


def made(folder, prompt=STORY, **knobs):
    return clipgen.generate(prompt, folder=folder, progress=False, **(SMALL | {"steps": 14} | knobs))


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    return made(tmp_path_factory.mktemp("judged"), judge="evaluator")


def pictures(run):
    return [frame.tobytes() for frame in run.journal.frames()]


@pytest.mark.slow
def test_it_guides_nothing(judged, tmp_path):
    plain = made(tmp_path)
    assert plain.models.judge is None and "judge" not in plain.journal.scores[-1]
    for part in ("frames", "latents"):
        for file in sorted((plain.journal.folder / part).iterdir()):
            assert (judged.journal.folder / part / file.name).read_bytes() == file.read_bytes()
    rows = [{name: value for name, value in row.items() if name != "judge"} for row in judged.journal.scores]
    assert rows == plain.journal.scores


def test_scores_can_be_computed_again_from_the_folder(judged):
    """By hand: who is wanted at which step, with which weight, and of what part of the frame."""
    judge = clipgen.load_perceptor("evaluator")
    for row in judged.journal.scores:
        step, frame = int(row["step"]) - 1, judged.journal.frame(int(row["step"]))
        fade = (step - 6 + 0.5) / 2
        dog, fire = (1.0, 0.0) if step < 6 else (1 - fade, 0.5 * fade) if step < 8 else (0.0, 0.5)
        whole, left = judge.embed_image([frame, frame.crop((0, 0, 32, 64))])
        cosines = torch.stack(
            [*judge.embed_text(["a cat", "a dog", "fire"]) @ whole, *judge.embed_text(["blue"]) @ left]
        )
        weights = torch.tensor([2.0, dog, fire, 0.7])
        assert row["judge"] == pytest.approx(float(cosines @ weights / weights.sum()), abs=1e-5)


def test_an_image_prompt_is_judged_as_a_picture(tmp_path):
    red = Image.new("RGB", (64, 64), "red")
    run = made(tmp_path, [red, "a cat:-1"], steps=3, judge="evaluator")
    judge = run.models.judge
    seen, wanted = judge.embed_image([run.image]), judge.embed_image([red])
    assert run.journal.scores[-1]["judge"] == pytest.approx(float(clip_score(seen, wanted, torch.ones(1))), abs=1e-5)


def test_the_best_frame(judged, tmp_path):
    rows = [row for row in judged.journal.scores if row["step"] > 8]  # since the dog is gone
    best = max(rows, key=lambda row: row["judge"])
    assert judged.best.step == best["step"] and judged.best.scores["judge"] == pytest.approx(best["judge"], abs=1e-6)
    assert judged.best.image.tobytes() == judged.journal.frame(judged.best.step).tobytes()
    opened = clipgen.Run.resume(judged.journal.folder, like=judged)
    assert opened.models is judged.models and opened.best.step == judged.best.step
    assert opened.best.image.tobytes() == judged.best.image.tobytes()
    plain = made(tmp_path, steps=6)
    assert plain.best.scores["clip"] == pytest.approx(max(row["clip"] for row in plain.journal.scores), abs=1e-6)
    with pytest.raises(clipgen.ClipgenError, match="no frames yet"):
        _ = clipgen.Run("a cat", folder=tmp_path, like=plain).best


@pytest.mark.parametrize(
    ("prompt", "change", "best"),
    [
        ("a cat | fog:-0.5@3-", {}, 1),
        ("a cat | a dog@3-", {}, 4),
        ("a cat | fog:-0.5@1-", {"prompt": "a cat | mist:-1"}, 1),
        ("a cat", {"prompt": "a dog"}, 3),
    ],
)
def test_frames_compete_while_the_positive_prompts_are_the_same(prompt, change, best, tmp_path):
    journal = Journal.create(tmp_path, "x", asdict(Settings(prompt)))
    journal.add_changes([{"step": 2} | change] if change else [])
    for step in range(1, 6):
        journal.add(step, Image.new("RGB", (8, 8)), torch.zeros(1), {"clip": 1 / step, "loss": 0.0})
    assert History(journal).best_step == best


def fallen(folder, scores):
    """A run whose judge was said to give these scores."""
    run = made(folder, "a cat", steps=2 * len(scores), judge="evaluator")
    journal = run.journal
    rows = [row | {"judge": score} for row, score in zip(journal.scores, [0.0, *scores])]
    lines = ["step,clip,loss,judge", *(f"{row['step']:.0f},{row['clip']},{row['loss']},{row['judge']}" for row in rows)]
    (journal.folder / "scores.csv").write_text("\n".join(lines) + "\n")
    return journal


@pytest.mark.slow
def test_keep_best_shows_and_exports_it(judged, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = fallen(tmp_path, [0.1, 0.4, 0.3, 0.4])
    run = clipgen.Run.resume(journal.folder, like=judged)
    assert run.best.step == 4, "of equals the first"
    run.export("best.png", keep="best")
    assert Image.open("best.png").tobytes() == enlarge(journal.frame(4)).tobytes()
    assert json.loads(Image.open("best.png").info["clipgen scores"])["judge"] == 0.4
    assert Image.open(run.export("best.gif", keep="best")).n_frames == 4, "steps 1 to 4"
    assert Image.open(run.export("all.gif")).n_frames == 8
    assert main(["export", str(journal.folder), "cli.png", "--keep", "best"]) == 0
    assert (tmp_path / "cli.png").read_bytes() == (tmp_path / "best.png").read_bytes()
    run.change(keep="best")
    run.control.apply_changes(run.step)
    assert run.image.tobytes() == journal.frame(4).tobytes() and run.score == pytest.approx(run.best.scores["clip"])
    assert main(["export", str(journal.folder), "asked.png"]) == 0
    assert Image.open("asked.png").tobytes() == Image.open("best.png").tobytes(), "as the run was asked"
    assert main(["export", str(journal.folder), "cli.png", "--keep", "worst"]) == 2
    assert "keep='worst': choose one of: last, best" in capsys.readouterr().err
    assert settings_of("best.png")["judge"] == "evaluator"


@pytest.mark.slow
@pytest.mark.parametrize("judge", ["evaluator", ""])
def test_patience_ends_a_run_once_and_where_it_would_have(judge, tmp_path):
    """Nothing changes with the smallest learning rate, and so nothing gets better than the first frame."""
    knobs = {"steps": 60, "patience": 7, "judge": judge, "lr": 1e-12} | ({} if judge else {"augment": "", "cut_min": 1})
    whole = made(tmp_path, "a cat", **knobs)
    liked = [row["judge" if judge else "clip"] for row in whole.journal.scores]
    best = whole.journal.steps[liked.index(max(liked))]
    assert whole.finished and whole.step < 60 and whole.step - best in (7, 8) and whole.best.step == best
    half = clipgen.Run("a cat", folder=tmp_path, like=whole, **(SMALL | knobs))
    for frame in half:
        if frame.step == 4:
            half.stop()
    half = clipgen.Run.resume(half.journal.folder, like=whole)
    assert half.step == 4 and not half.finished
    list(half)
    assert half.step == whole.step and pictures(half) == pictures(whole) and half.journal.scores == whole.journal.scores
    again = clipgen.Run.resume(half.journal.folder, like=whole)
    assert again.finished and not list(again), "its end is its end"


def table(judged, prompt, *changes, **settings):
    """A journal with these steps and the judge's scores."""
    rows = [{"step": step, "clip": 1.0, "judge": score} for step, score in judged]
    return SimpleNamespace(scores=rows, settings={"prompt": prompt} | settings, changes=changes)


@pytest.mark.parametrize(
    ("prompt", "changes", "best"),
    [
        ("a cat", [], 3),
        ("a cat", [{"step": 3, "prompt": "a dog"}, {"step": 9, "lr": 0.1}], 6),
        ("a cat", [{"step": 2, "prompt": "a dog"}], 3),
        ("a cat@0-6 | a dog@6-", [], 9),
        ("a cat@0-9 | a dog@3-", [], 12),
        ("a cat | a dog@20-30", [], 3),
        ("a cat@5-", [], 6),
    ],
)
def test_frames_compete_while_the_same_is_asked_for(prompt, changes, best):
    judged = ((1, 0.2), (3, 0.9), (6, 0.6), (9, 0.5), (12, 0.1))
    begin = max([best, *(change["step"] for change in changes)])  # of patience: what was changed needs time, too
    history = History(table(judged, prompt, *changes, patience=13 - begin))
    assert history.best_step == best and not history.should_stop
    assert best == 12 or History(table(judged, prompt, *changes, patience=12 - begin)).should_stop


def test_patience_and_ties():
    judged = ((1, 0.2), (3, 0.5), (6, 0.5), (9, 0.1))
    six, seven, never = (History(table(judged, "a cat", patience=patience)) for patience in (6, 7, 0))
    assert six.best_step == 3 and six.should_stop and not seven.should_stop and not never.should_stop
    journal = table(judged, "a cat", patience=6)
    assert not History(journal, until=6).should_stop and not History(journal, until=0)


def test_the_progress_bar_says_it(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(auto.tqdm, "set_postfix", lambda bar, scores: said.append(scores))
    clipgen.generate("a cat", folder=tmp_path, judge="evaluator", **(SMALL | {"steps": 2}))
    assert list(said[-1]) == ["clip", "judge"]


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"judge": "clop"}, r"judge='clop' is unknown; did you mean clipag\? choose one of: mini, evaluator"),
        ({"judge": "ViT-B-32/nobody"}, "judge='ViT-B-32/nobody': 'nobody' is neither"),
        ({"judge": "mini"}, "judge='mini': it guides this run"),
        ({"judge": "evaluator", "perceptor": "mini | evaluator:0.5"}, "judge='evaluator': it guides this run"),
        ({"patience": -1}, "patience=-1: must be a whole number from 0"),
        ({"keep": "worst"}, "keep='worst': choose one of: last, best"),
    ],
)
def test_what_cannot_work_writes_nothing(knobs, says, tmp_path):
    with pytest.raises(clipgen.ClipgenError, match=says):
        clipgen.Run("a cat", folder=tmp_path / "runs", **knobs)
    assert not (tmp_path / "runs").exists()


def test_a_judge_cannot_come_later(judged, tmp_path):
    with pytest.raises(clipgen.ClipgenError, match=r"judge=\.\.\.: cannot be changed during a run; start another"):
        judged.change(judge="")
    without = clipgen.Run("a cat", folder=tmp_path, like=judged, **SMALL)
    assert without.models.judge is None and without.models.generator is judged.models.generator
    assert Journal.open(without.journal.folder).settings["judge"] == ""


@pytest.mark.slow
def test_the_evaluator_can_guide_if_it_is_asked_to(tmp_path):
    run = made(tmp_path, "a sunflower", perceptor="evaluator", judge="mini", steps=20, size=(64, 64))
    first, *_, last = run.journal.scores
    assert last["clip"] > first["clip"] + 0.05
