"""Which precision a device gets, and what a person can ask for instead."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
    assert devices.resolve_precision(cpu) == devices.full_range(cpu) == ("bf16" if native else "fp32")


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
        devices.resolve_precision(torch.device(kind), asked)


# --- Apple chips, and what older versions of torch lack on them ----------------------------------------


class Lacking(TorchDispatchMode):
    """torch as it answers where a device has no kernel for an operation."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # torch's compiler, which takes seconds to import, is not in use here

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.name() == self.operation:
            raise NotImplementedError(
                f"The operator '{self.operation}' is not currently implemented for the MPS device. If you want this "
                "operator to be considered for addition please comment on an issue."
            )
        return function(*arguments, **options or {})


@pytest.mark.parametrize("operation", ["aten::grid_sampler_2d", "aten::grid_sampler_2d_backward"])
def test_a_device_without_cutouts_or_their_gradient_is_found_out(operation):
    check = devices.sampling_error.__wrapped__
    assert check("cpu") == ""
    with Lacking(operation):
        assert check("cpu") == f"The operator '{operation}' is not currently implemented for the MPS device"


@pytest.fixture
def apple(monkeypatch):
    """Apple's device, which torch says is there. This torch has no kernels for it: its errors are real."""
    if torch.backends.mps.is_available() or torch.cuda.is_available():
        pytest.skip("this machine has a device of its own")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    devices.sampling_error.cache_clear()
    yield
    devices.sampling_error.cache_clear()


def test_auto_takes_the_cpu_where_mps_cannot_sample_cutouts(apple):
    assert devices.resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["mps", "mps:0"])
def test_mps_names_what_is_missing_and_the_remedy(name, apple):
    reason = r"Could not run 'aten::empty.memory_format' with arguments from the 'MPS' backend\)"
    with pytest.raises(ClipgenError, match=rf"device='{name}' .*{reason}.*pip install -U torch.*device='cpu'"):
        devices.resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "a cat"])
def test_a_word_that_is_no_device(name):
    with pytest.raises(ClipgenError, match=f"device='{name}': choose one of: auto, cpu, cuda, cuda:1, mps"):
        devices.resolve_device(name)


@pytest.mark.parametrize("kind", ["cpu", "meta"])
def test_only_cuda_is_copied_to_without_waiting(kind, monkeypatch):
    copies, plain = [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda *a, **options: (copies.append(options), plain(*a, **options))[1])
    assert devices.copy_to(torch.ones(2), torch.device(kind)).device.type == kind
    assert not copies[0].get("non_blocking")


# --- which GPUs torch has kernels for ----------------------------------------------------------------

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]  # of torch 2.14 for CUDA 13


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((6, 0), WHEEL, False),  # P100
        ((7, 0), WHEEL, False),  # V100
        ((7, 5), WHEEL, True),
        ((8, 9), WHEEL, True),  # by the kernels for 8.6
        ((13, 0), WHEEL, True),  # by the PTX for 12.0
        ((9, 0), ["sm_90a"], True),
        ((9, 3), ["sm_90a"], False),
        ((9, 4), ["gfx90a", "gfx942"], True),  # ROCm
    ],
)
def test_what_runs_on_a_gpu(capability, architectures, runs):
    assert devices.can_run(capability, architectures) == runs


def test_a_gpu_without_kernels_is_not_used(monkeypatch):
    answers = {"is_available": True, "device_count": 1, "get_device_capability": (6, 0), "get_arch_list": WHEEL}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    with pytest.warns(UserWarning, match=r"device='auto' is the CPU: .*kernels for sm_75.* and the GPU is 6\.0"):
        assert devices.resolve_device("auto").type == "cpu"
    with pytest.raises(ClipgenError, match=r"device='cuda' cannot be used here: .*the GPU is 6\.0; use device='cpu'"):
        devices.resolve_device("cuda")
