"""A device has one form, and what memory it has is asked of it, and of the limits that it is used within."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from clipgen import device as devices
from clipgen import memory
from clipgen.errors import ClipgenError
from clipgen.fast import allocator
from clipgen.studies.executor import ProcessExecutor, visible_gpus

CPU = torch.device("cpu")


@pytest.fixture
def cards(monkeypatch):
    """Two cards, on which torch makes tensors without numbers."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with FakeTensorMode():
        yield


@pytest.mark.parametrize(
    ("name", "device"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cuda:0", "cuda:0")]
)
def test_a_device_has_one_form(name, device, cards):
    assert devices.resolve_device(name) == torch.device(device) and str(devices.resolve_device(name)) == device


def test_a_card_that_is_not_there_is_refused(cards):
    with pytest.raises(ClipgenError, match=r"device='cuda:2' cannot be used here .*there are 2.*use auto or cpu"):
        devices.resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["cpu", "cpu:0", *(["auto"] if not torch.cuda.is_available() else [])])
def test_there_is_one_cpu(name):
    assert str(devices.resolve_device(name)) == "cpu"


@pytest.mark.parametrize(
    ("named", "workers"),
    [
        (["cuda:1"], ["0,1,2"]),
        (["cuda:1", "cuda:1"], ["0,1,2"]),
        (["cuda:1", "cuda:2"], ["0,1,2"] * 2),
        (["cuda:1", "cuda"], ["0,1,2"] * 2),
        (["cuda", "cuda"], ["0", "1", "2"]),
        (["cpu"], []),
    ],
)
def test_a_study_has_a_worker_for_each_card_that_it_names(named, workers, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    plans = [
        SimpleNamespace(
            device=torch.device("cuda:0" if name == "cuda" else name), settings=SimpleNamespace(device=name)
        )
        for name in named
    ]
    assert visible_gpus(plans) == workers
    assert not workers or ProcessExecutor(None, 100, visible_gpus(plans)).workers == len(workers)


# --- what is free ------------------------------------------------------------------------------------

GB = 10**9
SECOND, FIRST = (
    ("memory.max", "memory.current", "inactive_file"),
    (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def machine(root, groups, **limits):
    """A machine with 8 GB available and a process in ``groups``; ``limits``: by folder, GB of the limit and taken."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal:  16000000 kB\nMemAvailable:  {8 * GB // 1024} kB\nHugePages_Total: 0\n"
    )
    (root / "proc/self/cgroup").write_text(groups)
    for folder, (limit, taken) in limits.items():
        place = root / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        most, used, copies = FIRST if folder.startswith("memory") else SECOND
        (place / most).write_text(f"{limit if isinstance(limit, str) else int(limit * GB)}\n")
        (place / used).write_text(f"{int(taken * GB)}\n")
        (place / "memory.stat").write_text(f"anon 12\n{copies} {GB // 2}\n")


@pytest.mark.parametrize(
    ("groups", "limits", "free"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {".": (4, 1)}, 3.5),
        ("0::/job/step\n", {"job/step": (4, 1), "job": ("max", 2)}, 3.5),
        ("0::/job/step\n", {"job/step": ("max", 1), "job": (4, 2)}, 2.5),
        ("0::/job\n", {"job": (64, 1)}, 8),
        ("0::/job\n", {"job": (2, 2.6)}, 0),
        ("0::/docker/host-only\n", {".": (4, 1)}, 3.5),
        ("0::/../..\n", {".": (4, 1)}, 3.5),
        ("5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n", {"memory": (4, 1)}, 3.5),
        ("4:memory:/slurm/job\n", {"memory/slurm/job": (2, 1), "memory": (9223372036.854772, 1)}, 1.5),
        ("4:hugetlb,memory:/job\n0::/\n", {"memory/job": (2, 1)}, 1.5),
        ("0::/job\n", {"unified/job": (2, 1)}, 1.5),
        ("1:name=systemd:/a:b\n0::/a:b\n", {"a:b": (2, 1)}, 1.5),
    ],
)
def test_limits_of_containers_and_batch_systems_count(groups, limits, free, tmp_path, monkeypatch):
    machine(tmp_path, groups, **limits)
    monkeypatch.setattr(allocator, "ROOT", tmp_path, raising=False)
    assert memory.free_bytes(CPU) == pytest.approx(free * GB, abs=2048)


def test_a_limit_without_statistics_is_one(tmp_path, monkeypatch):
    machine(tmp_path, "0::/job\n", job=(2, 1))
    (tmp_path / "sys/fs/cgroup/job/memory.stat").unlink()
    monkeypatch.setattr(allocator, "ROOT", tmp_path, raising=False)
    assert memory.free_bytes(CPU) == GB


def test_where_nobody_says_what_is_free_nothing_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(allocator, "ROOT", tmp_path, raising=False)
    assert memory.free_bytes(CPU) is None


def test_memory_is_asked_of_the_device_that_is_used(monkeypatch):
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: device.index * GB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (device.index * 2 * GB, 9 * GB))
    assert memory.free_bytes(torch.device("cuda:1")) == 2 * GB


@pytest.mark.parametrize("name", ["meta", "cpu:5"])
def test_what_computes_nothing_is_no_device(name):
    with pytest.raises(ClipgenError, match=f"device='{name}'"):
        devices.resolve_device(name)
