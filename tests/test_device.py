"""Which precision a device gets, and what a person can ask for instead."""

import pytest
import torch

from clipgen import device as devices
from clipgen.errors import ClipgenError

MIXED = frozenset({"mixed_norms"})
TABLE = [
    ("cuda", (3, 7), frozenset(), "fp32"),  # K80
    ("cuda", (6, 0), frozenset(), "fp32"),  # P100: fp16 without tensor cores
    ("cuda", (6, 1), frozenset(), "fp32"),  # GTX 1080
    ("cuda", (7, 0), frozenset(), "fp16"),  # V100
    ("cuda", (7, 2), frozenset(), "fp16"),  # Xavier
    ("cuda", (7, 5), frozenset(), "fp16"),  # T4, as Colab lends it: its bf16 is emulated
    ("cuda", (8, 0), frozenset(), "bf16"),  # A100
    ("cuda", (8, 9), frozenset(), "bf16"),  # L4
    ("cuda", (9, 0), frozenset(), "bf16"),  # H100
    ("cuda", (12, 0), frozenset(), "bf16"),
    ("mps", (14, 0), MIXED, "fp16"),
    ("mps", (26, 1), MIXED, "fp16"),
    ("mps", (13, 6), MIXED, "fp32"),
    ("mps", (15, 2), frozenset(), "fp32"),  # its norms end the process
    ("cpu", (), frozenset(), "fp32"),
    ("cpu", (), frozenset({"avx512_bf16"}), "bf16"),  # Zen 4
    ("cpu", (), frozenset({"avx512_bf16", "amx_bf16"}), "bf16"),  # Sapphire Rapids
    ("cpu", (), frozenset({"amx_bf16"}), "bf16"),
    ("cpu", (), MIXED, "fp32"),
    ("xpu", (), frozenset({"avx512_bf16"}), "fp32"),
]


@pytest.mark.parametrize(("kind", "capability", "flags", "suits"), TABLE)
def test_what_suits_a_device(kind, capability, flags, suits):
    assert devices.best_precision(kind, capability, flags) == suits


def test_this_machine():
    cpu = torch.device("cpu")
    native = any(torch.cpu.get_capabilities().get(flag) for flag in ("avx512_bf16", "amx_bf16"))
    assert devices.precision(cpu) == devices.full_range(cpu) == ("bf16" if native else "fp32")


@pytest.mark.parametrize(("kind", "full"), [("fp16", "fp32"), ("bf16", "bf16"), ("fp32", "fp32")])
def test_training_is_never_in_fp16(kind, full, monkeypatch):
    monkeypatch.setattr(devices, "best_precision", lambda *facts: kind)
    assert devices.full_range(torch.device("cpu")) == full


@pytest.mark.parametrize(("asked", "computed"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", None)])
def test_what_is_asked_for_is_what_is_computed(asked, computed):
    cpu, a = torch.device("cpu"), torch.ones(2, 2)
    with devices.autocast(cpu, asked):
        assert (a @ a).dtype == (computed or torch.float32)
    assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize(("kind", "asked"), [("cpu", "fp8"), ("cpu", "half"), ("meta", "fp16")])
def test_what_cannot_be_had(kind, asked):
    with pytest.raises(ClipgenError, match=f"precision='{asked}'.*fp32"):
        devices.precision(torch.device(kind), asked)
