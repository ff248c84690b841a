"""A participant's round of an imaging job, its steps and its update alone, with and without protection; for `benchmarks/gpu.py`.

Unprotected: eight steps of ResNet-18 over images of 64 x 64 pixels, and the change of its weights copied to the host. Protected:
the same steps with record-level privacy, the change quantised and masked on the device, the words copied to the host. It is not
the job: that also loads images, sends messages and evaluates, which both have alike, and needs more than torch.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.gpu_bench import Bench, Work
from benchmarks.gpu_private import CLASSES, Make, made, plain_step, private_step
from benchmarks.gpu_targets import IMAGING
from fedcore.learning.kernels.masking import masked
from fedcore.learning.models import SmallCNN, resnet18

STEPS, NEIGHBOURS = 8, 4
CLIP, SCALE = 8.0, 2.0**20
KEY = 44


def imaging(bench: Bench) -> None:
    """Both, beside each other; no times are taken on a CPU, so nothing is done there."""
    if bench.timing:
        bench.attempt("imaging: times", lambda: _times(bench))


def _times(bench: Bench) -> None:
    batch, side = bench.pick((256, 64), (128, 64), (2, 16))
    source = torch.Generator().manual_seed(5)
    x = torch.rand(batch, 1, side, side, generator=source).to(bench.device)
    y = torch.randint(0, CLASSES, (batch,), generator=source).to(bench.device)
    make: Make = partial(resnet18, (1, side, side), CLASSES, norm="group")
    if bench.size == "tiny":
        make = partial(SmallCNN, (1, side, side), CLASSES)
    taken: dict[str, float] = {}
    for name, layout in (("channels first", torch.contiguous_format), ("channels last", torch.channels_last)):
        images = x.contiguous(memory_format=layout)
        for side_name, step, leave in (
            ("plain", plain_step, _in_clear),
            ("protected", private_step, _masked),
        ):
            model = made(make, bench.device, layout)
            round_ = _round(model, step(model, images, y), leave, bench)
            seconds = bench.timed(round_, seconds=1.5, least=3, most=10)
            taken[side_name] = min(seconds, taken.get(side_name, seconds))
            bench.figures.append(
                {
                    "part": "imaging: steps and update of a round",
                    "side": f"{side_name}, {name}",
                    "ms": 1e3 * seconds,
                }
            )
    bench.values[IMAGING] = taken["protected"] / taken["plain"]


def _round(model: nn.Module, step: Work, leave: Callable[[torch.Tensor], None], bench: Bench) -> Work:
    parameters = list(model.parameters())

    def work() -> None:
        before = _flat(parameters)
        for _ in range(bench.pick(STEPS, STEPS, 1)):
            step()
        leave(_flat(parameters) - before)

    return work


def _flat(parameters: list[nn.Parameter]) -> torch.Tensor:
    return torch.cat([each.detach().reshape(-1) for each in parameters])


def _in_clear(change: torch.Tensor) -> None:
    change.cpu()


def _masked(change: torch.Tensor) -> None:
    keys = [secrets.token_bytes(KEY) for _ in range(NEIGHBOURS + 1)]
    found = masked(
        change,
        clip=CLIP,
        scale=SCALE,
        rounding_key=secrets.token_bytes(KEY),
        mask_keys=keys,
        minus=[False, True, False, True, False],
    )
    found.words.cpu()
