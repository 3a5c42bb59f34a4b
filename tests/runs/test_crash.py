"""Killed at any moment, a run goes on to the frames that it would have had."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import clipgen
from clipgen.runs import frames as run_frames
from clipgen.runs.finish import iterate_batch
from clipgen.runs.journal import Journal

KNOBS = {"steps": 12, "every": 1, "size": "48x48@0-5, 64x64@5-", "init": "perlin", "cutouts": 2, "seed": 3}
PROMPT = "a cat@0-6 | a dog:0.8@3-12 | grey:-0.3"

# One process imports everything once, forks, and lets the fork be killed: by itself in the middle of a write (a "save
# 7" order), or by the test at any time. Every other one saves states as if they were large.
NURSERY = """
import os, signal, sys
from pathlib import Path
from clipgen.runs import frames as run_frames
from clipgen.runs.run import Run

write, replace = Path.write_bytes, os.replace

def trap(count):
    left = [count]
    def dying_write(self, content):
        left[0] -= 1
        if left[0] == 0:
            write(self, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, content)
    def dying_replace(source, target):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(source, target)
    Path.write_bytes, os.replace = dying_write, dying_replace

for number, line in enumerate(sys.stdin):
    folder, count = line.split()
    run_frames.SMALL_STATE, run_frames.SAVE_SECONDS = (2**24, 20) if number % 2 else (0, 0.1)
    child = os.fork()
    if child == 0:
        try:
            if int(count):
                trap(int(count))
            for frame in Run.resume(folder):
                pass
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


def start(folder):
    """A run that has not begun: its folder with the settings."""
    return clipgen.Run(PROMPT, folder=folder, **KNOBS).journal.folder


def nothing(image, latent, step):
    """A loss of the caller's that changes no picture."""
    return torch.zeros(())


@pytest.fixture
def large_states(monkeypatch):
    """States are saved as those of token logits at 512x512 are."""
    monkeypatch.setattr(run_frames, "SMALL_STATE", 0)


@pytest.mark.slow
def test_a_large_state_is_not_saved_with_each_frame_and_frames_after_it_are_made_again(tmp_path, large_states):
    whole, step = clipgen.generate(PROMPT, folder=tmp_path, progress=False, **KNOBS), 0

    def fail(image, latent, step):
        if step == 8:
            raise RuntimeError("a fault of the caller's")
        return nothing(image, latent, step)

    run = clipgen.Run(PROMPT, folder=tmp_path, like=whole, losses={"own": fail}, **KNOBS)
    with pytest.raises(RuntimeError, match="the caller's"):
        for frame in run:
            step = frame.step
            if step == 3:
                run.pause()
                threading.Timer(0.3, run.unpause).start()
    assert step == 8 and run.journal.steps == [*range(1, 9)] and run.journal.saved_step == 3
    with pytest.raises(clipgen.ClipgenError, match=r"ended this Run object; continue with clipgen\.Run\.resume"):
        next(iterate_batch([run]))
    resumed = clipgen.Run.resume(run.journal.folder, losses={"own": nothing})
    assert resumed.step == 3 and resumed.journal.steps == [1, 2, 3]
    clipgen.finish(resumed, progress=False)
    assert [frame.tobytes() for frame in resumed.journal.frames()] == [
        frame.tobytes() for frame in whole.journal.frames()
    ]
    assert [row["step"] for row in resumed.journal.scores] == whole.journal.steps and resumed.journal.saved_step == 12


def test_a_large_state_is_saved_where_a_run_stops_or_is_given_up(tmp_path, large_states):
    run = clipgen.Run(PROMPT, folder=tmp_path, **KNOBS)
    frames = iter(run)
    next(frames), next(frames)
    assert run.journal.saved_step == 0
    frames.close()
    assert run.journal.saved_step == 2
    resumed = clipgen.Run.resume(run.journal.folder, like=run)
    for _ in resumed:
        resumed.stop()
    assert resumed.journal.saved_step == resumed.step == 3


@pytest.mark.slow
def test_a_pause_between_two_frames_saves_the_step(tmp_path):
    settings = KNOBS | {"every": 4}
    whole = clipgen.generate(PROMPT, folder=tmp_path, progress=False, **settings)

    def pause(image, latent, step):
        if step == 5:
            run.pause()
            threading.Timer(0.3, run.stop).start()
        return nothing(image, latent, step)

    run = clipgen.Run(PROMPT, folder=tmp_path, like=whole, losses={"own": pause}, **settings)
    assert [frame.step for frame in run] == [1, 4] and run.step == run.journal.saved_step == 6
    resumed = clipgen.Run.resume(run.journal.folder, losses={"own": nothing}, like=whole)
    assert clipgen.finish(resumed, progress=False).journal.steps == [1, 4, 8, 12]
    assert resumed.image.tobytes() == whole.image.tobytes()


@pytest.mark.slow
def test_thirty_kills(tmp_path):
    whole, killed = start(tmp_path / "whole"), start(tmp_path / "killed")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", NURSERY], stdin=pipe, stdout=pipe, text=True) as nursery:

        def attempt(folder, count=0, after=None):
            """Go on with a run in a fork; returns its exit status."""
            nursery.stdin.write(f"{folder} {count}\n")
            nursery.stdin.flush()
            child = int(nursery.stdout.readline())
            if after is not None:
                time.sleep(after)
                with contextlib.suppress(ProcessLookupError):  # it was quicker
                    os.kill(child, signal.SIGKILL)
            return int(nursery.stdout.readline())

        assert attempt(whole) == 0
        began = time.monotonic()
        assert attempt(start(tmp_path / "timed")) == 0
        usual = time.monotonic() - began

        rng, kills, folders = random.Random(0), 0, [killed]
        while kills < 32:
            # Odd kills fall inside a save, even ones at a random moment of whatever time a run takes.
            inside = {"count": rng.randrange(1, 30)} if kills % 2 else {"after": rng.random() * usual}
            status = attempt(folders[-1], **inside)
            assert status in (0, -signal.SIGKILL), "a resumed run fails only by being killed"
            if status == 0:
                folders.append(start(tmp_path / f"killed{len(folders)}"))
            else:
                kills += 1
        assert attempt(folders[-1]) == 0
        nursery.stdin.close()

    wanted = Journal.open(whole)
    assert wanted.steps == list(range(1, 13)) and len({frame.tobytes() for frame in wanted.frames()}) > 8
    for folder in folders:
        made = Journal.open(folder)
        assert made.steps == wanted.steps and made.scores == wanted.scores
        for part in ("frames", "latents"):
            for file in sorted((whole / part).iterdir()):
                assert (folder / part / file.name).read_bytes() == file.read_bytes(), f"{part}/{file.name} of {folder}"
        assert not [file for file in Path(folder).rglob("*.part") if "state" not in file.name], "half files are cleared"
