"""Randomness a person may want to repeat: every use has a seed of its own, derived from the job's.

Nothing here is secret. Keys, masks and noise never come from these generators.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fedcore.errors import JobError

_global_generator = threading.Lock()


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from a job's seed and the names of what it is for.

    The same parts give the same seed on every engine and machine, whatever ran before.

    Example:
        >>> derive_seed(7, "hospital-1", "train", 3) == derive_seed(7, "hospital-1", "train", 3)
        True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: str | int) -> torch.Generator:
    """A CPU generator seeded by `derive_seed(*parts)`."""
    made = torch.Generator()
    made.manual_seed(derive_seed(*parts))
    return made


def seeded_model(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Call `make` with torch's global generator seeded, and put the generator back.

    Args:
        make: Builds a module, drawing its initial weights from torch's global generator.
        seed: As from `derive_seed`.

    Raises:
        JobError: What it made is no module.
    """
    with _global_generator, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: object = make()
    if not isinstance(made, nn.Module):
        raise JobError(
            f"the task's model() returned a {type(made).__name__}; it must return a torch.nn.Module"
        )
    return made


class SeededDropout(nn.Module):
    """Dropout that draws from a generator of its own instead of the process's.

    Several participants train in one process at a time; with a shared generator the masks that one of them
    gets would depend on what the others do, and no run could be repeated.

    Args:
        p: Share of values set to zero, in [0, 1).
        per_channel: Drop whole channels (axis 1), as `Dropout2d` does.
    """

    def __init__(self, p: float, per_channel: bool = False) -> None:
        super().__init__()
        self.p = p
        self.per_channel = per_channel
        self.source: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale kept values by 1 / (1 - p) in training; pass through otherwise."""
        if not self.training or self.p == 0.0:
            return x
        kept: torch.Tensor = _Masked.apply(x, self._mask(x))  # type: ignore[no-untyped-call]
        return kept

    def _mask(self, x: torch.Tensor) -> torch.Tensor:
        """0 or 1 / (1 - p) for each value (or channel), in the memory layout of `x`."""
        if self.p == 1.0:
            return torch.zeros_like(x)
        if self.per_channel or x.device.type != "cpu":
            shape = x.shape[:2] + (1,) * (x.dim() - 2) if self.per_channel else x.shape
            mask = torch.empty(shape, dtype=x.dtype, device=x.device)
            return mask.bernoulli_(1.0 - self.p, generator=self.source).div_(1.0 - self.p)
        # Drawing is most of the work on a CPU: four 16-bit numbers from each draw instead of one value. The
        # share that is dropped is then a multiple of 1/65536, and the scale is the one of that share.
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
        draws.random_(-(2**63), None, generator=self.source)
        numbers = draws.view(torch.int16)[: x.numel()].view(x.shape)
        mask = torch.empty_like(x)
        torch.ge(numbers, dropped - 2**15, out=mask)
        return mask.mul_(2**16 / (2**16 - dropped))


class _Masked(torch.autograd.Function):
    """`x * mask`, whose gradient has the layout of the mask, not that of the gradient above.

    A layer that flattens images hands down gradients in another layout than the convolutions below it use;
    they would be copied there and back.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (mask,) = ctx.saved_tensors
        return mask * gradients[0], None


def own_randomness(model: nn.Module) -> nn.Module:
    """Replace the model's dropout layers by ones that `reseed` can seed. Changes the model in place."""
    # A layer that stands at two places has two names, and each is replaced.
    for path, child in list(model.named_modules(remove_duplicate=False)):
        if path and isinstance(child, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
            parent, _, name = path.rpartition(".")
            own = SeededDropout(child.p, not isinstance(child, nn.Dropout))
            setattr(model.get_submodule(parent), name, own)
    return model


def reseed(model: nn.Module, device: torch.device, *parts: str | int) -> None:
    """Seed the model's own dropout layers."""
    layers = [module for module in model.modules() if isinstance(module, SeededDropout)]
    if layers:
        source = torch.Generator(device=device)
        source.manual_seed(derive_seed(*parts))
        for layer in layers:
            layer.source = source
