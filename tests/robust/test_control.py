"""Steering a run: what is refused leaves no trace, what is accepted takes effect, and its cost is linear."""

import sys
import threading
import time

import pytest
import torch
from PIL import Image

import clipgen
from clipgen.inits import Random

SMALL = {"generator": "pixels", "init": "random", "size": (32, 32), "steps": 4, "every": 1, "cutouts": 2}


def begun(folder, **settings):
    """A run that has made its first frame, and the iterator of the others."""
    run = clipgen.Run("a cat", folder=folder, **SMALL | settings)
    frames = iter(run)
    next(frames)
    return run, frames


def picture():
    return Image.new("RGB", (32, 32), "yellow")


@pytest.mark.parametrize("setting", ["prompt", "mask"])
def test_a_refused_picture_is_still_recorded_when_it_is_accepted(setting, tmp_path):
    run, frames = begun(tmp_path)
    value = ["a cat", picture()] if setting == "prompt" else picture()
    with pytest.raises(clipgen.ClipgenError, match="lr=-1"):
        run.change(**{setting: value}, lr=-1.0)
    run.change(**{setting: value})
    last = [*frames][-1]
    assert clipgen.Run.resume(run.journal.folder, like=run).finished
    again = clipgen.Run.replay(run.journal.folder, folder=tmp_path / "again", like=run)
    assert [*again][-1].image.tobytes() == last.image.tobytes()


def test_a_refused_file_is_read_again_when_it_is_accepted(tmp_path):
    run, frames = begun(tmp_path)
    file = tmp_path / "mask.png"
    Image.new("L", (32, 32), 0).save(file)
    with pytest.raises(clipgen.ClipgenError, match="leaves nothing to paint"):
        run.change(mask=str(file))
    Image.new("L", (32, 32), 255).save(file)
    run.change(mask=str(file))
    assert [*frames] and run.journal.inputs()[str(file)].getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("asked", [{"step": 99, "lr": 0.1}, {"step": 2}, {"stepz": 2}, {"folder": "x"}])
def test_what_is_no_setting_is_refused(asked, tmp_path):
    run, frames = begun(tmp_path)
    with pytest.raises(clipgen.ClipgenError, match="there is no such setting"):
        run.change(**asked)
    assert len([*frames]) == 3 and run.journal.changes == []


def finished(folder):
    run, frames = begun(folder)
    assert [*frames]
    return run


def stopped(folder):
    run, frames = begun(folder)
    run.stop()
    assert not [*frames]
    return run


def settled(folder):
    run, frames = begun(folder, lr=1e-12, settled=1.0, steps=20)
    assert [*frames] and run.step < 20
    return run


def resumed(folder):
    return clipgen.Run.resume(finished(folder).journal.folder)


@pytest.mark.parametrize("end", [finished, stopped, settled, resumed])
def test_a_change_after_the_last_step_is_an_error(end, tmp_path):
    run = end(tmp_path)
    with pytest.raises(clipgen.ClipgenError, match=f"the run ended at step {run.step}"):
        run.change(lr=0.1)
    assert run.journal.changes == []
    run.change(keep="best")
    assert run.image.tobytes() == run.best.image.tobytes(), "what is shown can still change"
    assert clipgen.Run.resume(run.journal.folder, like=run).settings.keep == "best"
    again = clipgen.finish(clipgen.Run.replay(run.journal.folder, folder=tmp_path, like=run), progress=False)
    assert again.settings.keep == "best"


def test_keep_needs_no_further_step(tmp_path):
    run, frames = begun(tmp_path)
    run.change(keep="best")
    run.change(lr=0.2)
    run.stop()
    assert not list(frames) and (run.settings.keep, run.settings.lr) == ("best", run.spec.settings.lr)
    again = clipgen.Run.resume(run.journal.folder, like=run)
    next(iter(again))
    assert (again.settings.keep, again.settings.lr) == ("best", 0.2)
    assert [change["step"] for change in again.journal.changes] == [1, 1]


def test_a_change_during_the_last_step_is_an_error(tmp_path):
    refused = []

    def loss(image, latent, step):
        if step == 3:
            with pytest.raises(clipgen.ClipgenError, match="the run ended at step 4") as error:
                run.change(lr=0.1)
            refused.append(error)
        return image.mean()

    run = clipgen.Run("a cat", folder=tmp_path, losses=[loss], **SMALL)
    assert [*run] and len(refused) == 1


def test_a_change_before_a_stop_is_taken_up_by_whoever_resumes(tmp_path):
    run, frames = begun(tmp_path)
    run.change(lr=0.01)
    run.stop()
    assert not [*frames]
    again = clipgen.Run.resume(run.journal.folder, like=run)
    assert [*again] and again.settings.lr == 0.01


def test_a_change_after_patience_has_ended_gets_its_steps(tmp_path):
    run, frames = begun(tmp_path, steps=40, patience=3, lr=1e-12, augment="", cut_min=1, cut_max=1)
    best = run.best.step
    for frame in frames:
        if run.finished and frame.step < 40 and not run.journal.changes:
            ended = frame.step
            run.change(lr=1e-11)
    assert best == 1 and (ended, run.step) == (4, 7) and run.settings.lr == 1e-11
    again = clipgen.Run.replay(run.journal.folder, folder=tmp_path / "again", like=run)
    assert [frame.step for frame in again] == run.journal.steps


def test_a_stop_while_paused_takes_no_step(tmp_path):
    run, frames = begun(tmp_path, steps=20, every=3)
    assert next(frames).step == 3
    whole = clipgen.generate("a cat", folder=tmp_path, progress=False, like=run, **SMALL | {"steps": 20, "every": 3})
    run.pause()
    thread = threading.Thread(target=lambda: [*frames])
    thread.start()
    time.sleep(0.2)
    assert thread.is_alive() and run.step == 3
    run.stop()
    thread.join(30)
    assert not thread.is_alive() and run.step == 3 and run.journal.steps == [1, 3]
    again = clipgen.Run.resume(run.journal.folder, like=run)
    assert [*again][-1].image.tobytes() == whole.image.tobytes()


def test_a_stopped_run_cannot_be_paused(tmp_path):
    run, frames = begun(tmp_path)
    run.stop()
    run.pause()
    assert not [*frames]


def test_changes_are_in_force_in_the_order_of_their_steps(tmp_path):
    run, frames = begun(tmp_path, steps=8)
    for frame in frames:
        if frame.step == 4:
            run.change(lr=0.3)
    again = clipgen.Run.replay(run.journal.folder, folder=tmp_path / "again", like=run)
    for frame in again:
        if frame.step == 2:
            again.change(lr=0.1)
        if frame.step == 6:
            again.stop()
    assert again.settings.lr == clipgen.Run.resume(again.journal.folder, like=run).settings.lr == 0.3
    assert [change["step"] for change in again.journal.changes] == [2, 4]


def calls(run, frames, count):
    """How many Python functions are called by so many changes and the step that takes them up."""
    made = 0

    def count_call(frame, event, argument):
        nonlocal made
        made += event == "call"

    sys.setprofile(count_call)
    try:
        for number in range(count):
            run.change(tv=number / 1000)
        run.unpause()
        next(frames)
    finally:
        sys.setprofile(None)
    return made


def test_changes_while_paused_cost_as_much_as_there_are(tmp_path):
    run, frames = begun(tmp_path, steps=6)
    few, many = (calls(run, frames, count) for count in (0, 40))
    more = calls(run, frames, 80) - few
    assert more < 2.5 * (many - few), "twice as many changes, twice the work"
    assert len(run.journal.changes) == 120 and run.settings.tv == 0.079


NAMED = "me@3-8.png"


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt": NAMED},
        {"prompt": r"mail me\@3-8"},
        {"init": NAMED},
        {"mask": NAMED},
        {"prompt": f"a cat [{NAMED}]"},
    ],
    ids=str,
)
def test_a_file_whose_name_looks_like_a_span_is_none(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32), "white").save(NAMED)
    still = SMALL | {"lr": 1e-12, "settled": 1.0, "steps": 10}
    asked = {"prompt": "a cat"} | still | settings
    run = clipgen.generate(asked.pop("prompt"), progress=False, **asked)
    assert run.step == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt": "a cat@0-6 | a dog@6-"},
        {"tv": "0.1@0-6, 0.2@6-"},
        {"camera": "zoom=1.0@6-20"},
        {"size": "32x32@0-6, 40x40@6-"},
    ],
    ids=str,
)
def test_a_span_is_waited_for(settings, tmp_path):
    still = SMALL | {"lr": 1e-12, "settled": 250.0, "steps": 10, "folder": tmp_path}
    asked = {"prompt": "a cat"} | still | settings
    run = clipgen.generate(asked.pop("prompt"), progress=False, **asked)
    assert run.step == (8 if "size" in settings else 7), "a larger frame is another"


def test_what_a_run_is_shown_again_for_gives_its_memory_back(tmp_path):
    from clipgen.fast import allocator

    run = clipgen.generate("a cat", progress=False, folder=tmp_path, **SMALL | {"generator": "mini-vqgan"})
    before = len(allocator._owners)
    run.views(2, progress=False)
    assert len(allocator._owners) == before and torch.isfinite(torch.tensor(run.views(2, progress=False).score))


def test_an_interrupt_while_the_start_is_drawn_loses_no_change(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    run.change(lr=0.25)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Random, "latent", interrupt)
        next(iter(run))
    assert clipgen.Run.resume(run.journal.folder, like=run).spec.changes == [{"lr": 0.25, "step": 0}]


def test_a_change_after_the_end_names_what_it_cannot_change(tmp_path):
    run, frames = begun(tmp_path)
    list(frames)
    with pytest.raises(clipgen.ClipgenError, match=r"^lr=\.\.\.: the run ended"):
        run.change(keep="best", lr=0.2)


def test_a_change_may_name_a_picture_without_a_suffix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture().save("noext", "PNG")
    run, frames = begun(tmp_path / "runs")
    run.change(prompt="noext:2")
    assert [*frames]
    (prompt,) = run.settings.prompts
    assert prompt.is_image and prompt.weight == 2 and prompt.text in run.journal.inputs()


def test_a_change_is_in_the_journal_before_it_is_seen(tmp_path, monkeypatch):
    run, frames = begun(tmp_path)
    seen, add_changes = [], run.journal.add_changes

    def note(changes):
        add_changes(changes)
        seen.append((run.settings.lr == 0.05, [change.get("lr") for change in run.journal.changes]))

    monkeypatch.setattr(run.journal, "add_changes", note)
    run.change(lr=0.05)
    next(frames)
    assert run.settings.lr == 0.05 and (False, [0.05]) in seen and (True, []) not in seen
