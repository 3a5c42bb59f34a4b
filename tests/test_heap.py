"""What a step on the CPU frees stays with the process while a run wants it, and goes back to the system after that."""

import ctypes
import subprocess
import sys

import pytest

import clipgen
from clipgen import heap
from clipgen.optvis import memory

glibc = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
pytestmark = pytest.mark.skipif(not glibc, reason="the allocator is glibc's")


# In a process of its own, whose heap has no gaps yet.
TOLD = """
import re
from pathlib import Path

import torch
from clipgen import heap

class Owner:
    pass

def held():
    return 1024 * int(re.search(r"VmRSS:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

def gone():
    made = torch.ones(LARGE // 4)
    before = held()
    del made
    return (before - held()) / LARGE

print("alone", gone())
one, other = Owner(), Owner()
heap.keep(one)
heap.keep(one)
heap.keep(other)
print("kept", gone())
heap.keep(one, False)
print("still", gone())
before = held()
del other
print("back", (before - held()) / LARGE)
"""


def test_what_is_freed_stays_as_long_as_anybody_wants_it():
    """Shares of a large tensor that the process has less."""
    code = TOLD.replace("LARGE", str(100 * 2**20))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    went = {name: float(share) for name, share in (line.split() for line in done.stdout.splitlines())}
    assert went["alone"] > 0.9 and went["back"] > 0.5
    assert went["kept"] < 0.1 and went["still"] < 0.1, "the other still wants it"


@pytest.fixture
def nobody_elses():
    """Runs of other tests may still be in the making."""
    before = list(heap._owners)
    for owner in before:
        heap.keep(owner, False)
    yield
    for owner in before:
        heap.keep(owner)


@pytest.mark.parametrize("ample", [True, False])
def test_a_run_keeps_it_to_its_end_where_memory_is_ample(ample, tmp_path, monkeypatch, nobody_elses):
    monkeypatch.setattr(memory, "free", lambda device: 10**12 if ample else 2 * 10**9)
    monkeypatch.setattr(memory, "_views", lambda recipe: 10**9)
    run = clipgen.Run("a cat", folder=tmp_path, generator="mini-vqgan", init="grey", size=(64, 64), steps=2, cutouts=2)
    next(frames := iter(run))
    assert (run.render.memory in heap._owners) is ample
    list(frames)
    assert run.finished and not heap._owners
