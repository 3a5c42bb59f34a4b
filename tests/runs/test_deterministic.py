"""torch's deterministic algorithms: asked for by a setting, on while a gradient is computed, and off again."""

import threading
import warnings

import pytest
import torch

import clipgen
from clipgen.device import deterministic

SMALL = {"generator": "pixels", "init": "random", "size": (32, 32), "steps": 2, "every": 1, "cutouts": 2}


def mode():
    return torch.get_deterministic_debug_mode()


class Watch:
    """A loss that notes torch's mode, and needs an operation without a deterministic algorithm on any device."""

    def __init__(self):
        self.modes = []

    def __call__(self, image, latent, step):
        self.modes.append(mode())
        return image.clone().put_(torch.tensor([0]), torch.zeros(1)).mean()


@pytest.mark.parametrize("asked", [False, True])
def test_a_run_asks_for_it_and_says_what_is_not_deterministic(asked, tmp_path):
    watch, between = Watch(), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = clipgen.Run("a cat", folder=tmp_path, losses=watch, deterministic=asked, **SMALL)
        for _ in run:
            between.append(mode())
    assert watch.modes == [int(asked)] * 2 and between == [0, 0]
    assert any("put_ does not have a deterministic" in str(each.message) for each in caught) == asked
    assert run.journal.settings["deterministic"] is asked


def test_the_picture_on_a_cpu_is_the_same(tmp_path):
    pictures = [
        clipgen.generate("a cat", folder=tmp_path, progress=False, deterministic=asked, **SMALL).image.tobytes()
        for asked in (False, True)
    ]
    assert pictures[0] == pictures[1]


def test_a_batch_asks_for_it(tmp_path):
    watch = Watch()
    with pytest.warns(UserWarning, match="put_ does not"):
        clipgen.batch("a cat", 2, folder=tmp_path, progress=False, losses=watch, deterministic=True, **SMALL)
    assert {*watch.modes} == {1} and mode() == 0


def test_an_error_leaves_nothing_behind(tmp_path):
    def fail(image, latent, step):
        raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        clipgen.generate("a cat", folder=tmp_path, progress=False, losses=fail, deterministic=True, **SMALL)
    assert mode() == 0


@pytest.mark.parametrize("before", ["default", "error"])
def test_threads_take_turns_and_what_was_before_is_restored(before):
    torch.set_deterministic_debug_mode(before)
    try:
        modes = []

        def other():
            with deterministic():
                modes.append(mode())

        thread = threading.Thread(target=other)
        with deterministic(), deterministic():
            thread.start()
            thread.join(0.1)
            assert not modes and mode() == 1
        thread.join(30)
        assert modes == [1] and mode() == {"default": 0, "error": 2}[before]
    finally:
        torch.set_deterministic_debug_mode("default")
