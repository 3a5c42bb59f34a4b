"""What a step on the CPU frees stays with the process while a run wants it, and goes back to the system after that."""

import ctypes
import gc
import re
import sys
from pathlib import Path

import pytest
import torch

import clipgen
from clipgen import heap
from clipgen.optvis import memory

glibc = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
pytestmark = pytest.mark.skipif(not glibc, reason="the allocator is glibc's")
LARGE = 100 * 2**20


class Owner:
    pass


@pytest.fixture(autouse=True)
def nobody_elses():
    """Runs of other tests may still be in the making."""
    before = list(heap._owners)
    for owner in before:
        heap.keep(owner, False)
    yield
    for owner in before:
        heap.keep(owner)


def held():
    """Bytes that the process has."""
    return 1024 * int(re.search(r"VmRSS:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def freed():
    """How much less the process has after a large tensor was freed."""
    made = torch.ones(LARGE // 4)
    before = held()
    del made
    return before - held()


def test_what_is_freed_stays_as_long_as_anybody_wants_it():
    assert freed() > 0.9 * LARGE
    one, other = Owner(), Owner()
    heap.keep(one)
    heap.keep(one)
    heap.keep(other)
    assert freed() < 0.1 * LARGE
    heap.keep(one, False)
    assert freed() < 0.1 * LARGE, "the other still wants it"
    before = held()
    del other
    gc.collect()
    assert before - held() > 0.5 * LARGE, "it went back with the last who wanted it"
    assert freed() > 0.9 * LARGE


@pytest.mark.parametrize("ample", [True, False])
def test_a_run_keeps_it_to_its_end_where_memory_is_ample(ample, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: 10**12 if ample else 2 * 10**9)
    monkeypatch.setattr(memory, "_views", lambda recipe: 10**9)
    run = clipgen.Run("a cat", folder=tmp_path, generator="mini-vqgan", init="grey", size=(64, 64), steps=2, cutouts=2)
    next(frames := iter(run))
    assert (run.render.memory in heap._owners) is ample
    list(frames)
    assert run.finished and not heap._owners
