"""What a step on the CPU frees stays with the process while a run wants it, and goes back to the system after that."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

import clipgen
from clipgen import fast, memory
from clipgen.fast import allocator

glibc = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
pytestmark = pytest.mark.skipif(not glibc, reason="the allocator is glibc's")


# In a process of its own, whose heap has no gaps yet.
TOLD = """
import re
from pathlib import Path

import torch
from clipgen import fast
from clipgen.fast import allocator

class Owner:
    pass

def held():
    return 1024 * int(re.search(r"VmRSS:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

def gone():
    made = torch.ones(LARGE // 4)
    before = held()
    del made
    return (before - held()) / LARGE

def gaps():
    made = [torch.ones(2**21) for _ in range(16)]
    before = held()
    del made[::2]
    return (before - held()) / 2**26

lean = Owner()
allocator.keep_freed_memory(lean, False)
print("spared", gaps())
allocator.release(lean)
print("alone", gone())
one, other = Owner(), Owner()
allocator.keep_freed_memory(one, True)
allocator.keep_freed_memory(one, True)
allocator.keep_freed_memory(other, True)
print("kept", gone())
allocator.release(one)
print("still", gone())
before = held()
del other
print("back", (before - held()) / LARGE)
print("gaps", gaps())
"""


@pytest.mark.slow
def test_what_is_freed_stays_as_long_as_anybody_wants_it():
    """Shares of large tensors that the process has less."""
    code = TOLD.replace("LARGE", str(100 * 2**20))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    went = {name: float(share) for name, share in (line.split() for line in done.stdout.splitlines())}
    assert went["alone"] > 0.9 and went["back"] > 0.5
    assert went["kept"] < 0.1 and went["still"] < 0.1, "the other still wants it"
    assert went["gaps"] < 0.1 and went["spared"] > 0.9, "smaller blocks go back where memory is short"


@pytest.fixture
def nobody_elses():
    """Runs of other tests may still be in the making."""
    before = dict(allocator._owners)
    for owner in before:
        allocator.release(owner)
    yield
    for owner, ample in before.items():
        allocator.keep_freed_memory(owner, ample)


@pytest.mark.parametrize("ample", [True, False])
def test_a_run_keeps_it_to_its_end_where_memory_is_ample(ample, tmp_path, monkeypatch, nobody_elses):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**12 if ample else 2 * 10**9)
    monkeypatch.setattr(memory, "cutout_bytes", lambda recipe: 10**9)
    run = clipgen.Run("a cat", folder=tmp_path, generator="mini-vqgan", init="grey", size=(64, 64), steps=2, cutouts=2)
    next(frames := iter(run))
    assert allocator._owners[run.optimization.memory] is ample
    list(frames)
    assert run.finished and not allocator._owners


@pytest.mark.slow
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="this system has no large pages")
@pytest.mark.parametrize(("said", "asked"), [(None, True), ("0", False)])
def test_large_pages_are_asked_for_unless_somebody_says_no(said, asked):
    code = r"""
import re
import clipgen, torch

made = torch.ones(2**24)
for area in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read()):
    first, last = (int(end, 16) for end in area.split(" ")[0].split("-"))
    if first <= made.data_ptr() + 2**23 < last:
        print("hg" in area.rpartition("VmFlags:")[2].split())
"""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {"THP_MEM_ALLOC_ENABLE": said} if said else {}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(asked)


@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux only")
@pytest.mark.parametrize(("said", "kept"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_somebody_decided(said, kept, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if said:
        monkeypatch.setenv("OMP_WAIT_POLICY", said)
    fast.set_environment()
    assert os.environ["OMP_WAIT_POLICY"] == kept
