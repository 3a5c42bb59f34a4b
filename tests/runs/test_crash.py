"""Killed at any moment, a run goes on to the frames that it would have had."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import clipgen
from clipgen.runs.journal import Journal

KNOBS = {"steps": 12, "every": 1, "size": "48x48@0-5, 64x64@5-", "init": "perlin", "cutouts": 2, "seed": 3}
PROMPT = "a cat@0-6 | a dog:0.8@3-12 | grey:-0.3"

# One process imports everything once, forks, and lets the fork be killed: by itself in the middle of a write (a "save
# 7" order), or by the test at any time.
NURSERY = """
import os, signal, sys
from pathlib import Path
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

for line in sys.stdin:
    folder, count = line.split()
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
