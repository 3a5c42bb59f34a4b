"""Numbers that change over the steps."""

import pytest

import clipgen
from clipgen.errors import ClipgenError
from clipgen.runs.settings import build
from clipgen.setting import parse_schedule


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0.5", {0: 0.5, 99: 0.5}),
        ("8@0-10, 32@10-", {0: 8, 9: 8, 10: 32, 1000: 32}),
        ("1@0-20, 0@10-", {0: 1, 9: 1, 10: 0.95, 19: 0.05, 20: 0}),
        ("1@-5, 3@8-10", {0: 1, 6: 1, 8: 3, 11: 3}),
        ("2@5-10", {0: 2, 7: 2, 12: 2}),
        ("-1e-3@0-", {3: -0.001}),
    ],
)
def test_numbers_at_steps(text, numbers):
    assert {step: parse_schedule("x", text).at(step) for step in numbers} == pytest.approx(numbers)


@pytest.mark.parametrize("text", ["", "x", "1@5", "1@9-3", "1@3-3", "1@0-5,", "1;2"])
def test_what_is_no_schedule_is_refused(text):
    with pytest.raises(ClipgenError, match="lr="):
        build("a cat", {"lr": text})


def test_each_step_has_the_bounds_of_a_number():
    assert build("a cat", {"cutouts": "8@0-40, 32@30-"}).at(35).cutouts == 21
    with pytest.raises(ClipgenError, match="cutouts=0"):
        build("a cat", {"cutouts": "8@0-10, 0@10-"})
    with pytest.raises(ClipgenError, match=r"cut_min=0\.9: is above cut_max=0\.8"):
        build("a cat", {"cut_min": "0.5@0-10, 0.9@10-", "cut_max": 0.8})
    with pytest.raises(ClipgenError, match="steps="):
        build("a cat", {"steps": "8@0-10"})


def test_a_run_follows_it_goes_on_and_is_steered(tmp_path):
    small = {"size": (32, 32), "init": "perlin", "steps": 6, "every": 1, "folder": tmp_path}
    run = clipgen.Run("a cat", cutouts="2@0-2, 4@2-", lr="0.2@0-4, 0.05@4-", schedule="constant", **small)
    seen = []
    for frame in run:
        rate = run.optimization.optimizer.param_groups[0]["lr"] / run.optimization.spec.generator.lr
        seen.append((run.optimization.spec.cutouts.cutouts, round(rate, 3)))
        if frame.step == 3:
            run.stop()
    again = clipgen.Run.resume(run.journal.folder)
    for frame in again:
        rate = again.optimization.optimizer.param_groups[0]["lr"] / again.optimization.spec.generator.lr
        seen.append((again.optimization.spec.cutouts.cutouts, round(rate, 3)))
        if frame.step == 5:
            again.change(cutouts=3)
    assert seen == [(2, 0.2), (2, 0.2), (4, 0.2), (4, 0.2), (4, 0.05), (3, 0.05)]
    assert again.journal.settings["cutouts"] == "2@0-2, 4@2-" and again.journal.changes == [{"step": 5, "cutouts": 3}]
