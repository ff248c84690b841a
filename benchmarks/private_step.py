"""What a training step with differential privacy of single rows costs, beside a plain one and beside Opacus.

    pip install --no-deps --target .fedcore/opacus opacus==1.5.4 opt_einsum==3.4.0
    python benchmarks/private_step.py --opacus .fedcore/opacus --json
    python benchmarks/private_step.py --repeats 5      # a trial of the way, not of the figures

A step is forward, backward, clip row by row, noise, and gradient descent, on one batch of random rows. The steps of all sides
take turns in one process, so that they share what else the machine does; figures are medians. Opacus runs in each of its modes
with noise from torch's generator, which it calls unsafe; its safe mode needs a package that torch of today does not go with.
Ours takes noise from a cipher. Opacus gets a folder of its own because its wheel brings a package named `benchmarks`, which
would stand before this one. Gradients of ours are compared with those that autograd makes row by row.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.common import Report, Target, machine, parser, progress, ratio
from fedcore.learning.models import SmallCNN, mlp
from fedcore.learning.private.clipping import ClippedSums
from fedcore.learning.private.step import PrivateStep
from fedcore.learning.seeds import own_randomness, seeded_model
from fedcore.learning.sgd import Sgd
from fedcore.learning.training import placed

CLIP, NOISE, LR, CLASSES = 1.0, 1.0, 0.01, 10
LOSSES = partial(cross_entropy, reduction="none")
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "digits CNN": (lambda: SmallCNN((1, 8, 8), CLASSES), (1, 8, 8)),
    "MLP 784-512-256-10": (lambda: mlp(784, CLASSES, (512, 256)), (784,)),
    "MLP 64-256-256-10": (lambda: mlp(64, CLASSES, (256, 256)), (64,)),
}
MODES = ("hooks", "ghost", "functorch", "ew")
"""Of Opacus; `ew` are expanded weights."""

Step = Callable[[], None]


def main(arguments: list[str] | None = None) -> Report:
    """Measure and tell."""
    options = parser(__doc__, repeats=40)
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--opacus", type=Path, help="folder that Opacus is installed in, if it is in one")
    given = options.parse_args(arguments)
    torch.set_num_threads(given.cores)
    if given.opacus is not None:
        sys.path.append(str(given.opacus))
    report = Report(
        "private_step",
        {
            "batch": given.batch,
            "cores": given.cores,
            "repeats": given.repeats,
            "clip": CLIP,
            "noise": NOISE,
            "machine": machine(),
        },
    )
    for name in MODELS:
        progress(name, given.json)
        _model(name, given, report)
    report.tell(given.json)
    return report


def _model(name: str, given: Any, report: Report) -> None:
    make, shape = MODELS[name]
    source = torch.Generator().manual_seed(1)
    x = torch.rand(given.batch, *shape, generator=source)
    y = torch.randint(0, CLASSES, (given.batch,), generator=source)
    sides: dict[str, Step] = {"plain": _plain(_made(make), x, y), "fedcore": _ours(_made(make), x, y)}
    for side, step in _opacus(make, x, y):
        if isinstance(step, str):
            report.absent[f"{side}, {name}"] = step
        else:
            sides[side] = step
    seconds = interleaved(sides, given.repeats)
    plain = seconds["plain"]
    for side, taken in seconds.items():
        report.figures.append(
            {"part": f"{name}: a step", "side": side, "ms": 1e3 * taken, "over plain": taken / plain}
        )
    theirs = min((taken for side, taken in seconds.items() if side.startswith("Opacus")), default=None)
    apart = error(_made(make).eval(), x[:64], y[:64])
    report.targets += [
        Target(f"{name}: private step over plain step", seconds["fedcore"] / plain, at_most=2),
        Target(
            f"{name}: Opacus in its fastest mode over fedcore", ratio(theirs, seconds["fedcore"]), at_least=2
        ),
        Target(f"{name}: clipped gradients apart from autograd's, relative", apart, at_most=1e-5),
    ]


def _made(make: Callable[[], nn.Module]) -> nn.Module:
    return placed(own_randomness(seeded_model(make, 1)), torch.device("cpu"))


def _plain(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    optimizer = Sgd(model.parameters(), LR)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def _ours(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    training = PrivateStep(model, LOSSES, clip=CLIP, noise=NOISE, expected_batch=len(x))
    optimizer = Sgd(model.parameters(), LR)

    def step() -> None:
        training.accumulate(x, y)
        training.step(optimizer)

    return step


def _opacus(
    make: Callable[[], nn.Module], x: torch.Tensor, y: torch.Tensor
) -> Iterator[tuple[str, Step | str]]:
    """Each mode's step, or why there is none."""
    try:
        from opacus import PrivacyEngine
    except ImportError as missing:
        yield "Opacus", f"not installed ({missing}); see --help"
        return
    warnings.filterwarnings("ignore")
    for mode in MODES:
        try:
            step = _their_step(PrivacyEngine, mode, _made(make), x, y)
            step()
        except Exception as error:
            yield f"Opacus, {mode}", f"{type(error).__name__}: {str(error)[:200]}"
            continue
        yield f"Opacus, {mode}", step


def _their_step(engine: Any, mode: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=len(x))
    made = engine(accountant="rdp").make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=LR),
        data_loader=loader,
        criterion=nn.CrossEntropyLoss(),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        grad_sample_mode=mode,
        poisson_sampling=False,
    )
    private, optimizer = made[0], made[1]
    criterion = made[2] if mode == "ghost" else nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        criterion(private(x), y).backward()
        optimizer.step()

    return step


def interleaved(sides: dict[str, Step], repeats: int) -> dict[str, float]:
    """Median seconds of each side's step; sides take turns, three rounds are not counted."""
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(repeats + 3):
        for side, step in sides.items():
            began = time.perf_counter()
            step()
            if number >= 3:
                taken[side].append(time.perf_counter() - began)
    return {side: statistics.median(each) for side, each in taken.items()}


def error(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Norm of the difference of the clipped sum and the one made row by row, over the norm of that; the worst parameter's."""
    parameters = list(model.parameters())
    expected = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    for row in range(len(x)):
        made = torch.autograd.grad(cross_entropy(model(x[row : row + 1]), y[row : row + 1]), parameters)
        norm = float(torch.stack([each.double().norm() for each in made]).norm())
        for total, each in zip(expected, made, strict=True):
            total += each.double() * min(1.0, CLIP / norm)
    found = ClippedSums(model, LOSSES, CLIP)(x, y)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


if __name__ == "__main__":
    main()
