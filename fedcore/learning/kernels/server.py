"""What the coordinator does with the participants' changes: the weighted mean, and a step of its own optimizer along it.

Mean and step are one pass over the parameters: m changes and three states are read, three written.

    first   <- beta1 first + (1 - beta1) mean                     of the changes, by weight
    second  <- beta2 second + (1 - beta2) mean^2                          adam
               second - (1 - beta2) mean^2 sign(second - mean^2)          yogi
               second + mean^2                                            adagrad, with beta1 = 0
    model   <- model + rate first / (sqrt(second) + tau)
    rate    =  learning_rate, for adam times sqrt(1 - beta2^(r + 1)) / (1 - beta1^(r + 1)) in round r, from 1

The numbers are those of `strategies.fedopt`, in float32. Running statistics are no weights: leave them out, as that does.

Source: McMahan et al., AISTATS 2017, algorithm 1; Reddi et al., ICLR 2021, arXiv 2003.00295, algorithm 2; the correction of the
rate is Kingma and Ba's, arXiv 1412.6980, section 2, with the exponent that Flower takes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from fedcore.errors import JobError
from fedcore.learning.kernels import dispatch
from fedcore.learning.kernels.norms import KERNEL_DTYPES

Kind = Literal["adam", "yogi", "adagrad"]


def fedavg(updates: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted mean of updates.

    Args:
        updates: `[m, P]`, m of 1 or more, float32, bfloat16, float16 (float64: plain torch), entries of one next to each other.
        weights: `[m]`, 0 or more, not all 0; numbers of rows, say.

    Returns:
        float32 (float64 for float64), `[P]`.

    Raises:
        JobError: The weights have no mean.
    """
    shares = _shares(updates, weights)
    if not _served(updates, shares):
        return _mean(updates, shares)

    def kernel() -> torch.Tensor:
        from fedcore.learning.kernels import triton_server

        return triton_server.mean(updates, shares)

    return dispatch.guarded(f"fedavg {updates.dtype}", kernel, lambda: _mean(updates, shares), on=updates)


def fedadam(
    updates: torch.Tensor,
    weights: torch.Tensor,
    model: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    *,
    server_round: int,
    learning_rate: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
    kind: Kind = "adam",
) -> None:
    """A step of Adam, Yogi or Adagrad along the weighted mean of updates, in place.

    Args:
        updates: What the participants' models moved by, as for `fedavg`.
        weights: As for `fedavg`.
        model: `[P]`, float32 (float64 with float64 updates), contiguous; becomes the next model.
        first: First moment, likewise; zeros before the first round, and not used by adagrad but to hold the mean.
        second: Second moment, likewise; 0 or more.
        server_round: From 1; only adam looks at it.
        learning_rate: Above 0.
        beta1: Of the first moment, 0 to 1; adagrad takes 0.
        beta2: Of the second moment, 0 to 1; adagrad has none.
        tau: Keeps small second moments from large steps, above 0.
        kind: Of step.

    Raises:
        JobError: A number is not allowed, or the states do not go with the updates.
    """
    shares = _shares(updates, weights)
    _check(updates, model, first, second)
    rate, beta1, beta2 = _numbers(server_round, learning_rate, beta1, beta2, tau, kind)

    def plain() -> None:
        _step(_mean(updates, shares), model, first, second, rate, beta1, beta2, tau, kind)

    if not _served(updates, shares, model, first, second):
        plain()
        return

    def kernel() -> None:
        from fedcore.learning.kernels import triton_server

        triton_server.step(updates, shares, model, first, second, rate, beta1, beta2, tau, kind)

    dispatch.guarded(f"fed{kind} {updates.dtype}", kernel, plain, on=updates)


def floor(m: int, p: int, *, step: bool = False, size: int = 4) -> tuple[int, int]:
    """What no kernel for `fedavg` or `fedadam` can do without.

    Args:
        m: Updates.
        p: Parameters.
        step: For `fedadam`.
        size: Bytes of a number of an update.

    Returns:
        Bytes; floating point operations, a root being one.
    """
    if step:
        return m * p * size + 6 * p * 4, 2 * m * p + 13 * p
    return m * p * size + p * 4, 2 * m * p


def _shares(updates: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weights that sum to 1, float32 (float64 for float64 updates)."""
    if updates.dim() != 2 or weights.shape != updates.shape[:1] or not len(updates):
        raise JobError(
            f"{tuple(weights.shape)} weights for updates {tuple(updates.shape)}; allowed: [m] for [m, P], m of 1 or more"
        )
    wide = weights.to(torch.float64)
    total = wide.sum()
    if not bool((wide >= 0).all() & (total > 0) & torch.isfinite(total)):
        raise JobError("the weights of the updates have no mean; allowed: finite, 0 or more, not all 0")
    return (wide / total).to(updates.device, torch.promote_types(updates.dtype, torch.float32))


def _check(updates: torch.Tensor, *states: torch.Tensor) -> None:
    wanted = torch.promote_types(updates.dtype, torch.float32)
    for state in states:
        if state.shape != updates.shape[1:] or state.dtype != wanted or not state.is_contiguous():
            raise JobError(
                f"a state of the server is {state.dtype} {tuple(state.shape)}; allowed: {wanted} "
                f"{tuple(updates.shape[1:])}, contiguous"
            )


def _numbers(
    server_round: int, learning_rate: float, beta1: float, beta2: float, tau: float, kind: Kind
) -> tuple[float, float, float]:
    """The rate of this round, and what the kind takes for the two betas."""
    if kind not in ("adam", "yogi", "adagrad"):
        raise JobError(f"the server's step is {kind!r}; allowed: adam, yogi, adagrad")
    if server_round < 1 or not learning_rate > 0 or not tau > 0 or not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise JobError(
            f"round {server_round}, learning_rate {learning_rate}, beta1 {beta1}, beta2 {beta2}, tau {tau}; allowed: a "
            "round of 1 or more, rates and tau above 0, betas from 0 to below 1"
        )
    if kind == "adagrad":
        return learning_rate, 0.0, 0.0
    if kind == "yogi":
        return learning_rate, beta1, beta2
    corrected = math.sqrt(1 - beta2 ** (server_round + 1)) / (1 - beta1 ** (server_round + 1))
    return learning_rate * corrected, beta1, beta2


def _mean(updates: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(updates.shape[1], dtype=shares.dtype, device=updates.device)
    for update, share in zip(updates, shares, strict=True):
        found += update.to(shares.dtype) * share
    return found


def _step(
    mean: torch.Tensor,
    model: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    rate: float,
    beta1: float,
    beta2: float,
    tau: float,
    kind: Kind,
) -> None:
    first.mul_(beta1).add_(mean, alpha=1 - beta1)
    squares = mean.square()
    if kind == "adam":
        second.mul_(beta2).add_(squares, alpha=1 - beta2)
    elif kind == "yogi":
        second.sub_(squares * torch.sign(second - squares), alpha=1 - beta2)
    else:
        second.add_(squares)
    model.addcdiv_(first, second.sqrt().add_(tau), value=rate)


def _served(updates: torch.Tensor, *others: torch.Tensor) -> bool:
    plain = updates.dtype not in KERNEL_DTYPES or not updates.numel() or updates.stride(1) != 1
    return not plain and dispatch.usable(updates, *others)
