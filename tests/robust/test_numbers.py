"""Numbers mean what they say: in texts, and as other libraries have them."""

import signal
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import clipgen
from clipgen.cli import main
from clipgen.errors import ClipgenError
from clipgen.mini.drafts import layout

SMALL = {"generator": "pixels", "init": "random", "size": (32, 32), "steps": 1, "cutouts": 2}


def run_of(folder, **settings):
    return clipgen.Run("a cat", folder=folder, **(SMALL | settings))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lr", "0,05"),
        ("cutouts", "4,16"),
        ("lr", "0.2, 0.1"),
        ("cut_min", "0,5, 0,7"),
        ("lr", "0.1@0-8, 0.2"),  # of the first steps both hold
        ("lr", "0.1@0-, 0.2@0-"),
        ("tv", "1@0-50, 2@10-20"),
        ("near", "1,5@0-10"),
    ],
)
def test_several_numbers_need_steps_of_their_own(name, text, tmp_path):
    with pytest.raises(ClipgenError, match=rf"{name}=.*decimal point.*0\.2@0-100"):
        run_of(tmp_path, **{name: text})
    assert not list(tmp_path.iterdir())


def test_a_decimal_comma_is_refused_by_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["a cat", "--lr", "0,05"]) == 2
    assert "lr='0,05'" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_numbers_that_follow_one_another_still_fade(tmp_path):
    settings = run_of(tmp_path, lr="0.4@0-20, 0.2@10-", steps=30).settings
    assert [settings.at(step).lr for step in (0, 9, 20)] == [0.4, 0.4, 0.2]
    assert 0.2 < settings.at(15).lr < 0.4


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("seed", np.int64(3), 3),
        ("seed", np.uint8(3), 3),
        ("seed", 3.0, 3),
        ("seed", np.float64(3), 3),
        ("seed", torch.tensor(3), 3),
        ("seed", np.array(3), 3),
        ("steps", 2.0, 2),
        ("cutouts", np.int32(4), 4),
        ("lr", np.float32(0.5), 0.5),
        ("tv", np.int64(1), 1),
        ("tile", np.bool_(True), True),
        ("size", (np.int64(32), np.int64(64)), (32, 64)),
        ("size", np.array([32, 64]), (32, 64)),
        ("size", (32.0, 64.0), (32, 64)),
        ("size", [32, 64], (32, 64)),
        ("size", torch.Size([32, 64]), (32, 64)),
        ("size", np.int64(32), (32, 32)),
    ],
)
def test_whole_numbers_are_taken_as_such(name, value, right, tmp_path):
    run = run_of(tmp_path, **{name: value})
    found = getattr(run.settings, name)
    assert found == right and type(found) is type(right)
    again = clipgen.Run.replay(run.journal.folder, folder=tmp_path, like=run)  # from JSON
    assert getattr(again.settings, name) == right


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1.5),
        ("seed", np.float64("nan")),
        ("seed", float("inf")),
        ("seed", True),
        ("size", (32.5, 64)),
        ("size", np.ones((2, 2))),
        ("lr", np.array([0.1, 0.2])),
    ],
)
def test_what_is_no_whole_number_is_refused(name, value, tmp_path):
    with pytest.raises(ClipgenError, match=f"{name}="):
        run_of(tmp_path, **{name: value})


def test_a_change_is_written_in_python_numbers(tmp_path):
    run = run_of(tmp_path, steps=2)
    frames = iter(run)
    next(frames)
    run.change(cutouts=np.int64(3), lr=np.float32(0.5))
    list(frames)
    assert run.journal.changes == [{"step": 1, "cutouts": 3, "lr": 0.5}]


def test_the_command_takes_a_whole_number_with_a_point(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "--generator pixels --init random --size 32 --steps 1.0 --cutouts 2.0 --seed 3e0 --quiet -o cat.png"
    assert main(["a cat", *words.split()]) == 0
    (folder,) = (tmp_path / "clipgen-runs").iterdir()
    settings = clipgen.Run.resume(folder).settings
    assert (settings.steps, settings.cutouts, settings.seed) == (1, 2, 3)


MANY = 100_000
SPACES, DIGITS = " " * MANY, "1" * MANY


@contextmanager
def computing_at_most(seconds):
    """Give up what computes for so long: a pattern that backtracks reads 10^5 characters for hours."""

    def give_up(*_):
        raise TimeoutError(f"more than {seconds} s of computing")

    before = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.filterwarnings("ignore:prompt")  # that it is drawn as words
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="computing time is limited with POSIX timers")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prompt", f"a:{DIGITS}:{DIGITS}"),
        ("prompt", f"a:{DIGITS}x"),
        ("prompt", f"a:1{SPACES}:{SPACES}2"),
        ("prompt", f"a:{SPACES}1x"),
        ("prompt", f"a@{SPACES}"),
        ("prompt", f"a@{SPACES}x"),
        ("prompt", f"a@{DIGITS}-"),
        ("prompt", "a" + "[" * MANY),
        ("prompt", "a" + ":" * MANY),
        ("prompt", "a" + " :1" * MANY),
        ("prompt", "a" + "\\" * MANY),
        ("lr", f"{DIGITS}x"),
        ("lr", f"1@{SPACES}x"),
        ("lr", f"1{SPACES}@{SPACES}-{SPACES}x"),
        ("size", f"1@{SPACES}x"),
        ("augment", f"flip={DIGITS}:"),
        ("augment", f"flip{SPACES}={SPACES}:{DIGITS}x"),
        ("camera", f"x={DIGITS}!"),
        ("camera", f"x=1{SPACES}@{SPACES}1{SPACES}!"),
        ("palette", f"rgb({SPACES}1"),
        ("mask", "not " * MANY),
        ("mask", "1," * MANY),
        ("relax", f"gumbel:{DIGITS}"),
        ("generator", f"strokes:{DIGITS}"),
        ("init", f"#{DIGITS}"),
    ],
    ids=lambda text: text[:12] if len(text) > 20 else text,
)
def test_a_long_text_is_read_in_linear_time(name, text, tmp_path):
    """Whether it is refused or can be drawn; nothing else is raised."""
    asked = {"prompt": "a cat", "folder": tmp_path} | SMALL | {name: text}
    with computing_at_most(5):
        try:
            clipgen.Run(**asked)
        except ClipgenError as error:
            assert f"{name}=" in str(error)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="computing time is limited with POSIX timers")
@pytest.mark.parametrize("text", ["word " * (MANY // 5), "a slice of " * (MANY // 11), "a cat and " * (MANY // 10)])
def test_what_is_drafted_of_a_long_prompt_is_found_in_linear_time(text):
    with computing_at_most(5):
        assert layout(text).things


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 10**400),
        ("tv", -(10**400)),
        ("seed", 10**400),
        ("cutouts", "1e999"),
        ("passes", "1e999@0-5"),
        ("lr", "1e999@0-5, 0.1@5-"),
        ("near", float("nan")),
    ],
)
def test_what_no_float_can_hold_is_refused(name, value, tmp_path):
    with pytest.raises(clipgen.ClipgenError, match=f"{name}="):
        clipgen.Run("a cat", folder=tmp_path, **(SMALL | {name: value}))
    run = clipgen.Run("a cat", folder=tmp_path, **SMALL)
    with pytest.raises(clipgen.ClipgenError, match=f"{name}="):
        run.change(**{name: value})
