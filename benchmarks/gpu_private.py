"""Steps with record-level privacy on one device: right, and timed beside plain steps and beside Opacus; for `benchmarks/gpu.py`.

A step is forward, backward, clip row by row, noise, and gradient descent, on one batch of random rows, in bfloat16 where torch
does so by itself (autocast). Plain steps and ours run with images stored channels first and last; each side is judged by its
faster one. Plain steps run before and after ours, and the faster of these counts. The memory is torch's, of the model and two
steps.

Opacus runs in TF32 where it does not go with autocast; ours in TF32 is told beside it. It takes noise from torch's generator,
which it calls unsafe, where ours is from a cipher.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.gpu_bench import OUT_OF_TIME, Bench, Work
from benchmarks.gpu_targets import GRADIENTS, memory_over, opacus_over, over_plain
from fedcore.learning.models import SmallCNN, mlp, resnet18
from fedcore.learning.private.clipping import ClippedSums
from fedcore.learning.private.step import PrivateStep
from fedcore.learning.seeds import own_randomness, seeded_model
from fedcore.learning.sgd import Sgd

CLIP, NOISE, LR, CLASSES = 1.0, 1.0, 0.01, 10
LOSSES = partial(cross_entropy, reduction="none")
MODES = ("hooks", "ghost", "functorch", "ew")
"""Of Opacus; `ew` are expanded weights."""
MIXED = torch.bfloat16


class Encoder(nn.Module):
    """A transformer that reads whole sequences and answers with one class.

    Args:
        entries: Of the embedding.
        length: Positions of a sequence.
        width, heads, depth: Of the layers; each has a hidden layer of four times the width.
        classes: Number of logits.
    """

    def __init__(self, entries: int, length: int, width: int, heads: int, depth: int, classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(entries, width)
        self.places = nn.Embedding(length, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[n, classes]` from ids `[n, length]`."""
        places = torch.arange(x.shape[1], device=x.device).repeat(len(x), 1)
        hidden = self.words(x) + self.places(places)
        for layer in self.layers:
            hidden = layer(hidden)
        logits: torch.Tensor = self.head(hidden.mean(dim=1))
        return logits


Make = Callable[[], nn.Module]


def _model(name: str, bench: Bench) -> tuple[Make, torch.Tensor, torch.Tensor]:
    """How it is made, and a batch for it."""
    batch = bench.pick(256, 256, 4)
    source = torch.Generator().manual_seed(1)
    if name.startswith("transformer"):
        entries, length, width, heads, depth = bench.pick(
            (30_000, 128, 512, 8, 6), (30_000, 128, 512, 8, 6), (50, 8, 32, 4, 2)
        )
        make: Make = partial(Encoder, entries, length, width, heads, depth, CLASSES)
        x = torch.randint(0, entries, (batch, length), generator=source)
    else:
        side = bench.pick(224, 224, 18) if "224" in name else bench.pick(32, 32, 16)
        make = partial(resnet18, (3, side, side), CLASSES, norm="group")
        if bench.size == "tiny":
            make = partial(SmallCNN, (3, side, side), CLASSES)
        x = torch.rand(batch, 3, side, side, generator=source)
    y = torch.randint(0, CLASSES, (batch,), generator=source)
    return make, x.to(bench.device), y.to(bench.device)


def made(
    make: Make, device: torch.device, layout: torch.memory_format = torch.contiguous_format
) -> nn.Module:
    """The same model at each call, in training mode."""
    return own_randomness(seeded_model(make, 1)).to(device=device, memory_format=layout)


def mixed(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast to bfloat16 on this device."""
    return torch.autocast(device.type, MIXED)


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Products of float32 in TF32, as convolutions are by themselves."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def plain_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Work:
    """A step without privacy."""
    optimizer = Sgd(model.parameters(), LR)

    def step() -> None:
        optimizer.zero_grad()
        with mixed(x.device):
            loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    return step


def private_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, half: bool = True) -> Work:
    """A step with it, in bfloat16 or as the model is.

    Raises:
        RuntimeError: The model goes the way that makes every row's gradient, which is not what is measured.
    """
    training = PrivateStep(model, LOSSES, clip=CLIP, noise=NOISE, expected_batch=len(x))
    optimizer = Sgd(model.parameters(), LR)

    def step() -> None:
        with mixed(x.device) if half else contextlib.nullcontext():
            training.accumulate(x, y)
        training.step(optimizer)
        if training.route != "parts":
            raise RuntimeError("this model's gradients are not had in parts; the log says why")

    return step


def steps(bench: Bench, name: str) -> None:
    """One model: plain, ours, plain again, Opacus; nothing where no times are taken."""
    if not bench.timing:
        return
    make, x, y = _model(name, bench)
    layouts = {"channels first": torch.contiguous_format}
    if x.dim() == 4:
        layouts["channels last"] = torch.channels_last
    seconds: dict[str, float] = {}
    memory: dict[str, float | None] = {}

    def side(label: str, build: Callable[[], Work]) -> None:
        step, used = _measured(bench, build)
        seconds[label] = bench.timed(step, seconds=1.0, most=20)
        memory[label] = used
        bench.figures.append(
            {
                "part": f"{name}: a step",
                "side": label,
                "batch": len(x),
                "ms": 1e3 * seconds[label],
                "peak MiB": used,
            }
        )

    for when in ("plain", "fedcore", "plain, again"):
        for layout, form in layouts.items():
            images = x.contiguous(memory_format=form)
            label = f"{when}, {layout}" if len(layouts) > 1 else when
            step = private_step if when == "fedcore" else plain_step
            bench.attempt(
                f"{name}: {label}",
                partial(side, label, partial(_built, step, make, images, y, form)),
            )
    _judged(name, bench, seconds, memory)
    with tf32():
        # Beside Opacus where that does not go with bfloat16; no target is judged by it.
        build = partial(_built, partial(private_step, half=False), make, x, y, torch.contiguous_format)
        bench.attempt(f"{name}: ours in TF32", partial(side, "ours in TF32", build))
    for mode in MODES:
        _opacus(name, bench, mode, make, x, y, side)
        _judged(name, bench, seconds, memory)


def _built(
    step: Callable[[nn.Module, torch.Tensor, torch.Tensor], Work],
    make: Make,
    x: torch.Tensor,
    y: torch.Tensor,
    layout: torch.memory_format,
) -> Work:
    return step(made(make, x.device, layout), x, y)


def _measured(bench: Bench, build: Callable[[], Work]) -> tuple[Work, float | None]:
    """The step, and MiB that it and its model take at most."""
    kept: list[Work] = []

    def twice() -> None:
        kept.append(build())
        kept[0]()
        kept[0]()

    used = bench.peak(twice)
    return kept[0], used


def _opacus(
    name: str,
    bench: Bench,
    mode: str,
    make: Make,
    x: torch.Tensor,
    y: torch.Tensor,
    side: Callable[..., None],
) -> None:
    """Opacus in one of its modes; in TF32 where it does not go with bfloat16. What it cannot do is no failure of ours."""
    label = f"{name}: Opacus, {mode}"
    try:
        from opacus import PrivacyEngine
    except ImportError as missing:
        bench.absent[label] = f"not installed ({missing}); see --opacus"
        return
    if bench.out_of_time():
        bench.absent[label] = OUT_OF_TIME
        return
    warnings.filterwarnings("ignore")
    told = []
    for half in (True, False):
        try:
            with contextlib.nullcontext() if half else tf32():
                side(
                    f"Opacus, {mode}{'' if half else ', TF32'}",
                    lambda half=half: _their_step(PrivacyEngine, mode, made(make, x.device), x, y, half),
                )
            return
        except Exception as error:
            told.append(f"{type(error).__name__}: {str(error)[:200]}")
        finally:
            bench.done()
    bench.absent[label] = "; in TF32: ".join(told)


def _their_step(
    engine: Any, mode: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor, half: bool
) -> Work:
    from opacus.validators import ModuleValidator

    model = ModuleValidator.fix(model).to(x.device)  # its own attention layer, of the same products
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # which its hooks do not go with
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x.cpu(), y.cpu()), batch_size=len(x))
    found = engine(accountant="rdp").make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=LR),
        data_loader=loader,
        criterion=nn.CrossEntropyLoss(),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        grad_sample_mode=mode,
        poisson_sampling=False,
    )
    private, optimizer = found[0], found[1]
    criterion = found[2] if mode == "ghost" else nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        with mixed(x.device) if half else contextlib.nullcontext():
            loss = criterion(private(x), y)
        loss.backward()
        optimizer.step()

    return step


def _judged(name: str, bench: Bench, seconds: dict[str, float], memory: dict[str, float | None]) -> None:
    plain = _fastest(seconds, "plain")
    ours = _fastest(seconds, "fedcore")
    theirs = _fastest(seconds, "Opacus")
    if plain and ours:
        bench.values[over_plain(name)] = seconds[ours] / seconds[plain]
    if ours and theirs:
        bench.values[opacus_over(name)] = seconds[theirs] / seconds[ours]
        held, most = memory[ours], memory[theirs]
        if held is not None and most:
            bench.values[memory_over(name)] = held / most


def _fastest(seconds: dict[str, float], side: str) -> str | None:
    sides = [label for label in seconds if label.startswith(side)]
    return min(sides, key=lambda label: seconds[label], default=None)


# ---- right -------------------------------------------------------------------------------------------------------


def gradients(bench: Bench) -> None:
    """Clipped sums beside those that autograd makes row by row on the same device, in float32 and in float64."""
    before = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.deterministic,
    )
    # TF32 keeps ten bits, and some ways to convolve keep less than float32 has.
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, False
    torch.backends.cudnn.deterministic = True
    try:
        for name in GRADIENTS if bench.size != "tiny" else GRADIENTS[:3]:
            bench.attempt(f"gradients, {name}", partial(_compared, name, bench))
    finally:
        (
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.deterministic,
        ) = before


def _compared(name: str, bench: Bench) -> None:
    source = torch.Generator().manual_seed(2)
    rows = bench.pick(32, 8, 5)
    x = torch.rand(rows, 3, 32, 32, generator=source)
    if name == "digits CNN":
        make: Make = partial(SmallCNN, (1, 8, 8), CLASSES, dropout=(0.0, 0.0))
        x = x[:, :1, :8, :8]
    elif name == "MLP":
        make, x = partial(mlp, 784, CLASSES, (512, 256)), x.flatten(1)[:, :784]
    elif name == "ResNet-18":
        make = partial(resnet18, (3, 32, 32), CLASSES, norm="group")
    else:
        make = partial(Encoder, 100, 33, 64, 4, 2, CLASSES)
        x = torch.randint(0, 100, (rows, 33), generator=source)
    y = torch.randint(0, CLASSES, (rows,), generator=source)
    model, x, y = made(make, bench.device), x.to(bench.device), y.to(bench.device)
    private = ClippedSums(model, LOSSES, CLIP)
    # Of the deepest one a unit next to zero may answer otherwise to another order of sums.
    kinks = 1e-3 if name == "ResNet-18" else 1e-5
    bench.right(f"gradients, {name}", f"{rows} rows, float32", _error(private, model, x, y), kinks)
    if private.route != "parts":
        raise RuntimeError(f"the gradients of {name} are not had in parts; the log says why")
    wide = model.double()
    x = x.double() if x.is_floating_point() else x
    bench.right(
        f"gradients, {name}",
        f"{rows} rows, float64",
        _error(ClippedSums(wide, LOSSES, CLIP), wide, x, y),
        1e-9,
    )


def _error(private: ClippedSums, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Norm of the difference over the norm, of all parameters together."""
    parameters = list(model.parameters())
    expected = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    for row in range(len(x)):
        each = torch.autograd.grad(cross_entropy(model(x[row : row + 1]), y[row : row + 1]), parameters)
        norm = float(torch.stack([one.double().norm() for one in each]).norm())
        for total, one in zip(expected, each, strict=True):
            total += one.double() * min(1.0, CLIP / norm)
    found = private(x, y)
    apart = torch.stack([(a.double() - b).norm() for a, b in zip(found, expected, strict=True)]).norm()
    return float(apart / torch.stack([b.norm() for b in expected]).norm())
