"""What runs take of memory is given back, a shortage of it is survived, and no run feels what another one changes."""

import gc
import re
import threading
import weakref

import numpy as np
import pytest
import torch

import clipgen
from clipgen import memory
from clipgen.errors import ClipgenError
from clipgen.fast.adam import Adam
from clipgen.generators.catalogue import GENERATORS
from clipgen.generators.pixels import Pixels
from clipgen.optimize import Optimization
from clipgen.runs.finish import iterate_batch
from clipgen.runs.run import Run

SMALL = {"init": "random", "size": (32, 32), "cutouts": 2, "steps": 2, "every": 1, "device": "cpu"}
# Those that are not downloaded; a few marks take as much from run to run as many.
HERE = [f"{name}:4" if entry.is_vector else name for name, entry in GENERATORS.items() if not entry.megabytes]


def tensors():
    """How many tensors there are."""
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def shortage(times=1, words="CUDA out of memory. Tried to allocate 2 GiB"):
    """A loss for which memory is short so many times, and which is nothing then."""
    calls = []

    def loss(image, latent, step):
        calls.append(step)
        if len(calls) <= times:
            raise RuntimeError(words)
        return 0 * image.sum()

    return loss


def pictures(run):
    """The frames of a run, made to its end, as bytes."""
    return [frame.image.tobytes() for frame in run]


def difference(run, other):
    """The mean difference of the last frames of two runs, in levels of 255."""
    return np.abs(np.asarray(run.image, int) - np.asarray(other.image, int)).mean()


# --- nothing is left ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        *({"generator": name} for name in HERE),
        {"generator": "mini-vqgan", "tile": True, "relax": "none"},
        {"generator": "mini-vqgan", "judge": "evaluator"},
        {"generator": "mini-dvae", "relax": "gumbel"},
        {"generator": "mini-dvae", "relax": "sample", "passes": 2},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_run_leaves_no_tensors(settings, tmp_path):
    left = []
    for _ in range(2):
        clipgen.generate("a cat", folder=tmp_path, progress=False, **SMALL | {"steps": 1} | settings)
        left.append(tensors())
    assert left[0] == left[1]


@pytest.mark.parametrize("function", [torch.sigmoid, torch.exp, torch.relu, torch.sqrt, lambda x: x.softmax(-1)])
def test_measuring_what_a_computation_keeps_leaves_nothing(function):
    x = torch.ones(4, 4, requires_grad=True)
    before = tensors()
    for _ in range(3):
        assert memory.saved_bytes(lambda: function(x)) == 2 * 4 * 16, "its output, which it saves, and the result"
    assert tensors() == before


# --- models that runs share --------------------------------------------------------------------------


@pytest.mark.parametrize("generator", ["mini-vqgan", "mini-dvae"])
@pytest.mark.parametrize(("outer", "inner"), [(True, False), (False, True), (True, True)])
def test_a_seamless_picture_and_another_are_decoded_at_the_same_time(outer, inner, generator, tmp_path):
    """In another thread, while one of them is in the midst of its decoder."""
    asked = SMALL | {"generator": generator, "steps": 1}
    run = Run("a cat", folder=tmp_path, tile=outer, seed=3, **asked)
    other, made = Run("a cat", folder=tmp_path, tile=inner, seed=3, like=run, **asked), []
    whole = [pictures(Run("a cat", folder=tmp_path, tile=tile, seed=3, like=run, **asked)) for tile in (outer, inner)]

    def meanwhile(*_):
        handle.remove()
        thread = threading.Thread(target=lambda: made.extend(pictures(other)))
        thread.start()
        thread.join()

    layers = [each for each in run.models.generator.net.decoder_layers.modules() if hasattr(each, "padding_mode")]
    handle = layers[1].register_forward_hook(meanwhile)
    assert [pictures(run), made] == whole


def test_a_run_that_was_short_of_memory_leaves_others_as_fast_as_they_were(tmp_path):
    asked = SMALL | {"generator": "mini-vqgan", "cutouts": 1, "steps": 1}
    fast = Run("a cat", folder=tmp_path, **asked)
    block, calls = fast.models.generator.net.decoder.mid.block_1, []
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    once = pictures(fast), len(calls)
    short = Run("a cat", folder=tmp_path, like=fast, losses=[shortage()], **asked)
    calls.clear()
    list(short)
    assert short.finished and len(calls) == once[1] + 2, "a try more, which computes the decoder again"
    calls.clear()
    assert (pictures(Run("a cat", folder=tmp_path, like=short, **asked)), len(calls)) == once


# --- memory runs out ---------------------------------------------------------------------------------

SHORT = [
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 14.75 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cusolver error: CUSOLVER_STATUS_NOT_INITIALIZED, when calling `cusolverDnCreate(handle)`",
    "cuFFT error: CUFFT_ALLOC_FAILED",
    "FIND was unable to find an engine to execute this computation",
    "GET was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "HIP out of memory. Tried to allocate 2.00 GiB",
    "MPS backend out of memory (MPS allocated: 9.05 GB, other allocations: 1 MB, max allowed: 9.07 GB)",
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 40000000000 bytes.",
    "std::bad_alloc",
]
OTHERS = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "Unrecognized key 'max_split' in CUDA allocator config",
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
    "cuDNN error: CUDNN_STATUS_BAD_PARAM",
]


@pytest.mark.parametrize("words", SHORT)
def test_what_libraries_say_when_memory_is_short(words, tmp_path):
    asked = SMALL | {"generator": "pixels", "steps": 1}
    run = Run("a cat", folder=tmp_path, losses=[shortage(words=words)], **asked)
    with pytest.warns(UserWarning, match="memory is short"):
        list(run)
    assert run.finished


@pytest.mark.parametrize("words", OTHERS)
def test_what_they_say_of_anything_else_is_no_shortage(words, tmp_path):
    run = Run("a cat", folder=tmp_path, losses=[shortage(words=words)], **SMALL | {"generator": "pixels"})
    with pytest.raises(RuntimeError, match=re.escape(words)):
        list(run)


def test_a_shortage_that_python_tells_is_one(tmp_path):
    def loss(image, latent, step):
        if step not in seen:
            seen.add(step)
            raise MemoryError("Unable to allocate 3.00 GiB for an array")
        return 0 * image.sum()

    seen, asked = set(), SMALL | {"generator": "pixels", "steps": 1}
    with pytest.warns(UserWarning, match="memory is short"):
        assert len(list(Run("a cat", folder=tmp_path, losses=[loss], **asked))) == 1


def test_nothing_of_a_failed_try_is_left_when_the_next_begins(tmp_path):
    """Without a garbage collection: on a card there is none when memory runs out."""
    same = SMALL | {"generator": "mini-vqgan", "steps": 1}
    clipgen.generate("a cat", folder=tmp_path, progress=False, **same)  # makes the constants that stay
    run = Run("a cat", folder=tmp_path, losses=[shortage()], **same)
    before = []
    with run.session():
        assert run.prepare_step()
        run.models.generator.net.decoder.conv_in.register_forward_pre_hook(
            lambda *_: before.append(sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects()))
        )
        gc.collect()
        gc.disable()
        try:
            with pytest.warns(UserWarning, match="memory is short"):
                run.optimization.advance()
        finally:
            gc.enable()
    assert len(before) == 2 and before[1] <= before[0]


def test_an_error_that_is_held_holds_nothing_of_the_step(tmp_path):
    """As a notebook holds the last one; the remedy that it names would fail for want of what it holds."""
    held = []

    def loss(image, latent, step):
        held.append(weakref.ref(image))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    run = Run("a cat", folder=tmp_path, losses=[loss], **SMALL | {"generator": "mini-vqgan"})
    with pytest.warns(UserWarning, match="memory is short"), pytest.raises(ClipgenError, match="lower size") as error:
        list(run)
    gc.collect()
    assert held and not any(image() for image in held) and "Tried to allocate" in str(error.value)


@pytest.mark.parametrize(
    ("kind", "part"),
    [(Adam, "step"), (Optimization, "unscale_and_check"), (Pixels, "project_"), (Optimization, "compute_gradient")],
)
@pytest.mark.parametrize("several", [True, False])
def test_a_step_is_taken_once_wherever_memory_runs_out(kind, part, several, tmp_path, monkeypatch):
    asked = {"folder": tmp_path, **SMALL, "generator": "pixels", "weight_decay": 0.1}
    made = [Run("a cat", seed=0, **asked)]
    made += [Run("a cat", seed=seed, like=made[0], **asked) for seed in range(1, 3 if several else 1)]
    plain = [Run("a cat", seed=run.settings.seed, like=made[0], **asked) for run in made]
    for run in plain:
        list(run)
    whole, calls = getattr(kind, part), []

    def short(self, *given):
        calls.append(self)
        if len(calls) == len(made):  # the last of them, in the first step
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return whole(self, *given)

    monkeypatch.setattr(kind, part, short)
    with pytest.warns(UserWarning) if part == "compute_gradient" and not several else pytest.MonkeyPatch.context():
        told = sorted((run.settings.seed, frame.step) for run, frame in iterate_batch(made))
    assert told == [(run.settings.seed, step) for run in made for step in (1, 2)]
    assert all(difference(run, other) < 1 for run, other in zip(made, plain, strict=True))


# --- what is asked for holds -------------------------------------------------------------------------


def test_passes_can_be_changed_while_a_run_goes_on(tmp_path, monkeypatch):
    asked = SMALL | {"generator": "pixels", "cutouts": 6, "steps": 4}
    run, shown = Run("a cat", folder=tmp_path, **asked), []
    perceptor = run.models.perceptors[0][0]
    encode = perceptor.encode_image

    def count(images, kept=None):
        shown.append(len(images))
        return encode(images, kept)

    frames = iter(run)
    next(frames)
    monkeypatch.setattr(perceptor, "encode_image", count)
    for passes in (2, 6, 1):
        run.change(passes=passes)
        next(frames)
    assert shown == [3, 3] + [1] * 6 + [6]
    again = Run.replay(run.journal.folder, folder=tmp_path, like=run)
    assert difference(run, clipgen.finish(again, progress=False)) == 0


def test_passes_follow_a_schedule(tmp_path, monkeypatch):
    run, shown = Run("a cat", folder=tmp_path, **SMALL | {"generator": "pixels", "passes": "1@0-1, 2@1-"}), []
    perceptor = run.models.perceptors[0][0]
    encode = perceptor.encode_image
    monkeypatch.setattr(perceptor, "encode_image", lambda x, kept=None: (shown.append(len(x)), encode(x, kept))[1])
    list(run)
    assert shown == [2, 1, 1]
