"""How long a step would take on a T4, computed and not measured: ``python -m tests.benchmarks card --simulate``.

The step is taken on a pretended card (``tests/card/pretend.py``) that computes shapes alone. The host starts one
operation each ``LAUNCH`` seconds. The card takes for each what its floating-point operations or its bytes take,
whichever is longer, and the host waits for it where it reads a result. Real kernels reach a part of these rates, norms
read their input more than once, and the host may be slower: it is a lower bound, to compare two commits with.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

import clipgen
from tests.card.pretend import Card, CardTensor, items_of, published_shapes

# A T4: operations a second in half precision and in fp32, bytes a second, seconds to start a kernel.
HALF, SINGLE, BANDWIDTH, LAUNCH = 22e12, 8.1e12, 250e9, 9e-6
VIT = {"perceptor": "ViT-B-32/openai", "init": "random", "cutouts": 32}
WORK: dict[str, dict[str, Any]] = {
    "VQGAN f16-16384, 256x256": {"generator": "vqgan_imagenet_f16_16384", "size": (256, 256)},
    "VQGAN f16-16384, 512x512": {"generator": "vqgan_imagenet_f16_16384", "size": (512, 512)},
    "dVAE, Gumbel, 512x512": {"generator": "dvae", "relax": "gumbel", "size": (512, 512)},
}


class SimulatedCard(Card):
    """A T4 with a clock: what the host has done and what the card has."""

    def __init__(self) -> None:
        super().__init__((7, 5), hollow=True)
        self.on_operation, self.on_cpu_operation = self.run, self.run_on_host
        self.host = self.device = 0.0
        self.seconds: Counter[str] = Counter()  # of the card, by operation
        self.flops = self.bytes = 0

    def clear(self) -> None:
        super().clear()
        self.host = self.device = self.flops = self.bytes = 0
        self.seconds.clear()

    def run(self, function: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Start an operation, and let the card compute it after those before it."""
        self.host += LAUNCH
        outputs = [output] if isinstance(output, Tensor) else list(output or ())
        tensors = [item for item in [*items_of(args), *outputs] if isinstance(item, Tensor) and item.dim()]
        flops, moved = count_flops(function, args, kwargs, output), sum(map(count_bytes, tensors))
        is_half = any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in tensors)
        seconds = max(flops / (HALF if is_half else SINGLE), moved / BANDWIDTH)
        self.device = max(self.device, self.host) + seconds
        self.seconds[function._schema.name.split("::")[1]] += seconds
        self.flops, self.bytes = self.flops + flops, self.bytes + moved

    def run_on_host(self, *_: Any) -> None:
        self.host += LAUNCH  # the host's own small operations cost about as much

    def wait(self, reason: str) -> None:
        super().wait(reason)
        self.host = max(self.host, self.device)


def count_flops(function: Any, args: Any, kwargs: Any, output: Any) -> int:
    """Return the floating-point operations of a convolution, a product or an attention; 0 of others."""
    name = function._schema.name.split("::")[1]
    shapes = [item.shape for item in args[:4] if isinstance(item, Tensor)]
    if name == "_scaled_dot_product_flash_attention_for_cpu":
        return sdpa_flop_count(*shapes[:3])
    if name == "_scaled_dot_product_flash_attention_for_cpu_backward":
        return sdpa_backward_flop_count(*shapes[:4])
    formula = flop_registry.get(function.overloadpacket)
    return formula(*args, **kwargs, out_val=output) if formula else 0


def count_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor, those of an expanded one once."""
    inner = tensor.inner if isinstance(tensor, CardTensor) else tensor
    return min(inner.numel() * inner.element_size(), inner.untyped_storage().nbytes())


def simulate_steps(show: bool = False) -> list[dict[str, Any]]:
    """Return a row for each work: its second step. ``show``: print which operations the card's time goes to."""
    rows = []
    for name, settings in WORK.items():
        with published_shapes(), SimulatedCard() as card, tempfile.TemporaryDirectory() as folder:
            run = clipgen.Run("a cat", folder=folder, device="cuda", steps=9, every=9, **VIT, **settings)
            next(frames := iter(run))
            card.clear()
            run.optimization.advance()
            seconds = max(card.host, card.device)
            rows.append(
                {
                    "simulated, T4": name,
                    "ms a step": 1000 * seconds,
                    "ms of kernels": 1000 * sum(card.seconds.values()),
                    "operations": sum(card.operations.values()),
                    "waits": sum(card.waits.values()),
                    "GFLOP": card.flops / 1e9,
                    "GB moved": card.bytes / 1e9,
                }
            )
            frames.close()
        if show:
            print(name, {key: round(1000 * value, 1) for key, value in card.seconds.most_common(15)}, flush=True)
    return rows
