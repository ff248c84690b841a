"""A split network: bottom halves at the parties, the top half and the labels at the label holder.

Per batch a partner sends its bottom half's output for each row (activations), the label holder joins them with its own,
computes the loss and sends back the gradient with respect to what it was sent; each party updates its own half.

WHO LEARNS WHAT. The label holder sees the activations of every row at every step: numbers from which it may rebuild
much of a partner's columns, above all where `bottom` ends wide. A partner sees a gradient for every row at every step:
numbers that point to its label. `protect` blurs them (`fedcore.vertical.label_protection`), and every run measures at
the label holder what two published attacks still read (`fedcore.vertical.leakage`), without the partner hearing of it.
Partners also see how many rows and batches there are, and their trained half predicts labels better than chance.
Whoever knows the label holder's seed knows the top half it started with, which helps to turn gradients into labels:
a label holder that keeps its seed to itself gives less away.

ASSUMPTION. None that protects anything: THIS STYLE HAS NO CRYPTOGRAPHIC GUARANTEE. Both sides follow the protocol, and
what they may compute from what they see is not bounded. Where that is not enough take the logistic model, which
trains under encryption and sharing.

COST. Per epoch, row and partner 4 bytes times the last of `bottom` each way; one round trip per batch.

Source: Vepakomma, Gupta, Swedish and Raskar, "Split learning for health", 2018 (arXiv 1812.00564), the configuration
for vertically partitioned data (figure 2, section 2.2).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from crypto.channel import Channel
from fedcore.errors import DataError
from fedcore.jobs.vertical import SplitNetwork
from fedcore.vertical import split_messages as messages
from fedcore.vertical.label_protection import protected
from fedcore.vertical.leakage import Audit
from fedcore.vertical.split_part import SplitPart

__all__ = ["SplitPart", "fit_label_holder", "fit_partner", "predict_label_holder", "predict_partner"]

Watch = Callable[[str, int, int], None]
Floats = npt.NDArray[np.float64]

PHASE = "split network"
CHUNK = 8192
"""Rows of a message of predictions."""


class _Half(nn.Module):
    """A party's own network: a bottom half, and at the label holder the top.

    Args:
        columns: Of the party; without any there is no bottom half.
        partners: Whose activations the top half takes besides; None at a partner, which has no top.
        settings: Widths.
    """

    def __init__(self, columns: int, partners: int | None, settings: SplitNetwork) -> None:
        super().__init__()
        cut = settings.bottom[-1]
        self.bottom = _layers([columns, *settings.bottom]) if columns else None
        if partners is not None:
            inputs = cut * (partners + (1 if columns else 0))
            self.top: nn.Module | None = nn.Sequential(nn.ReLU(), _layers([inputs, *settings.top, 1]))
        else:
            self.top = None


def fit_label_holder(
    channels: Sequence[Channel],
    x: Floats,
    y: Floats,
    settings: SplitNetwork,
    seed: int,
    watch: Watch = lambda phase, done, of: None,
) -> SplitPart:
    """Train with one or more partners; at the label holder.

    Args:
        channels: To each partner, in the order of the job.
        x: Own training rows, float64 [n, d], finite; d may be 0.
        y: Labels, float64 [n], each 0 or 1 (the event), both there.
        settings: Of the job.
        seed: Of the weights at the start.
        watch: Told the progress, in epochs.

    Returns:
        The label holder's half, the loss of each epoch, and what the attacks found (`leaks`).

    Raises:
        DataError: The rows cannot serve, or the training diverged.
        ProtocolError: A partner has other settings or rows, or sent what is not allowed.
        PeerLost: A partner is gone.
    """
    mean, scale = _moments(x, allow_none=True)
    _check_labels(y, len(x))
    for channel in channels:
        messages.agree(channel, "label holder", settings, len(x))
    order = messages.order_seed_holder(channels)
    half = _new_half(x.shape[1], len(channels), settings, seed, "label holder")
    # The share of events is known here, and without it the first gradients would all be of one size, which max-norm
    # leaves as they are.
    _last(half).bias.data.fill_(math.log(y.mean() / (1 - y.mean())))
    optimiser = torch.optim.Adam(half.parameters(), lr=settings.lr)
    own, labels = _tensor((x - mean) / scale), _tensor(y)
    cut = settings.bottom[-1]
    audit = Audit([cut] * len(channels), y)
    losses = []
    for epoch in range(settings.epochs):
        audit.epoch()
        total = 0.0
        for rows in messages.batches(order, epoch, len(x), settings.batch):
            theirs = [messages.recv_floats(each, "split.forward", len(rows), cut) for each in channels]
            joined = torch.from_numpy(np.concatenate(theirs, axis=1)).requires_grad_()
            logits = _logits(half, own[rows], joined)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            clean = _gradient(joined)
            _check_finite(clean)
            sent = protected(clean, settings.protect, settings.noise)
            for number, channel in enumerate(channels):
                messages.send_floats(channel, "split.backward", sent[:, number * cut : (number + 1) * cut])
            audit.batch(clean, sent, rows)
            total += loss.item() * len(rows)
        losses.append(total / len(x))
        watch(PHASE, epoch + 1, settings.epochs)
    return SplitPart(
        role="label holder",
        settings=settings,
        partners=len(channels),
        fit=messages.fit_name(order),
        mean=mean,
        scale=scale,
        weights=_weights(half),
        losses=tuple(losses),
        leaks=audit.leaks(),
    )


def fit_partner(
    channel: Channel,
    x: Floats,
    settings: SplitNetwork,
    seed: int,
    watch: Watch = lambda phase, done, of: None,
) -> SplitPart:
    """Train with the label holder; at a partner.

    Args:
        channel: To the label holder.
        x: Own training rows, float64 [n, d], finite, in the order of the label holder's; d at least 1.
        settings: Of the job.
        seed: Of the weights at the start.
        watch: Told the progress, in epochs.

    Returns:
        The partner's half.

    Raises:
        DataError: The rows cannot serve, or the training diverged.
        ProtocolError: The label holder has other settings or rows, or sent what is not allowed.
        PeerLost: It is gone.
    """
    mean, scale = _moments(x)
    messages.agree(channel, "partner", settings, len(x))
    order = messages.order_seed_partner(channel)
    half = _new_half(x.shape[1], None, settings, seed, "partner")
    optimiser = torch.optim.Adam(half.parameters(), lr=settings.lr)
    own, cut = _tensor((x - mean) / scale), settings.bottom[-1]
    for epoch in range(settings.epochs):
        for rows in messages.batches(order, epoch, len(x), settings.batch):
            activations = _bottom(half, own[rows])
            told = activations.detach().numpy()
            _check_finite(told)
            messages.send_floats(channel, "split.forward", told)
            back = messages.recv_floats(channel, "split.backward", len(rows), cut)
            optimiser.zero_grad()
            activations.backward(torch.from_numpy(back))  # type: ignore[no-untyped-call]
            optimiser.step()
        watch(PHASE, epoch + 1, settings.epochs)
    return SplitPart(
        role="partner",
        settings=settings,
        partners=0,
        fit=messages.fit_name(order),
        mean=mean,
        scale=scale,
        weights=_weights(half),
    )


def predict_label_holder(channels: Sequence[Channel], part: SplitPart, x: Floats) -> Floats:
    """Probabilities of the event; at the label holder, which alone learns them.

    Args:
        channels: To each partner, in the order of the training.
        part: This party's half.
        x: Own rows, float64 [n, d], finite.

    Returns:
        float64 [n].

    Raises:
        DataError: The rows are not what the half was trained on, or a partner is missing.
        ProtocolError: A partner has another half or other rows.
        PeerLost: A partner is gone.
    """
    half, own = _ready(part, x, "label holder")
    if len(channels) != part.partners:
        raise DataError(
            f"the model was trained with {part.partners} partners and {len(channels)} are here; bring all of them"
        )
    for channel in channels:
        messages.agree(channel, "label holder", part.settings, len(x), part.fit)
    found = [np.zeros(0)]
    for start in range(0, len(x), CHUNK):
        rows = own[start : start + CHUNK]
        theirs = [
            messages.recv_floats(each, "split.predict", len(rows), part.settings.bottom[-1])
            for each in channels
        ]
        with torch.no_grad():
            logits = _logits(half, rows, torch.from_numpy(np.concatenate(theirs, axis=1)))
            found.append(torch.sigmoid(logits.double()).numpy())
    return np.concatenate(found)


def predict_partner(channel: Channel, part: SplitPart, x: Floats) -> None:
    """Help to predict; at a partner, which learns how many rows are asked for.

    Args:
        channel: To the label holder.
        part: This party's half.
        x: Own rows, float64 [n, d], finite, in the order of the label holder's.

    Raises:
        DataError: The rows are not what the half was trained on.
        ProtocolError: The label holder has another half or other rows.
        PeerLost: It is gone.
    """
    half, own = _ready(part, x, "partner")
    messages.agree(channel, "partner", part.settings, len(x), part.fit)
    for start in range(0, len(x), CHUNK):
        with torch.no_grad():
            messages.send_floats(channel, "split.predict", _bottom(half, own[start : start + CHUNK]).numpy())


# ---- halves ---------------------------------------------------------------------------------------------------------


def _layers(widths: Sequence[int]) -> nn.Sequential:
    """Fully connected layers with ReLU between."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        # Their weights are drawn in `_new_half`: torch's own draw is of a generator that all threads share.
        linear = nn.utils.skip_init(nn.Linear, before, after)  # type: ignore[no-untyped-call]
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _new_half(columns: int, partners: int | None, settings: SplitNetwork, seed: int, role: str) -> _Half:
    half = _Half(columns, partners, settings)
    # The role keeps halves of one shape apart that start from the seed of one job.
    drawn = hashlib.sha256(f"fedcore split start {seed} {role}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(drawn[:8], "little") >> 1)
    for module in half.modules():
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            with torch.no_grad():
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.uniform_(-bound, bound, generator=generator)
    return half


def _last(half: _Half) -> nn.Linear:
    return [module for module in half.modules() if isinstance(module, nn.Linear)][-1]


def _bottom(half: _Half, rows: torch.Tensor) -> torch.Tensor:
    if half.bottom is None:
        return rows.new_zeros((len(rows), 0))
    found: torch.Tensor = half.bottom(rows)
    return found


def _logits(half: _Half, rows: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    if half.top is None:
        raise RuntimeError("a partner's half has no top")
    found: torch.Tensor = half.top(torch.cat([_bottom(half, rows), theirs], dim=1))
    return found[:, 0]


def _weights(half: _Half) -> dict[str, npt.NDArray[np.float32]]:
    return {name: value.detach().numpy().copy() for name, value in half.state_dict().items()}


def _ready(part: SplitPart, x: Floats, role: str) -> tuple[_Half, torch.Tensor]:
    """The half with its trained weights, and the rows as it takes them."""
    if part.role != role:
        raise DataError(f"this is the half of a {part.role}; the {role} needs its own")
    if x.ndim != 2 or x.shape[1] != len(part.mean):
        raise DataError(
            f"rows of shape {list(x.shape)} came; the model takes [rows, {len(part.mean)}]: give the columns of the "
            "training in their order"
        )
    _check_values(x)
    half = _Half(len(part.mean), part.partners if role == "label holder" else None, part.settings)
    try:
        half.load_state_dict({name: torch.from_numpy(value) for name, value in part.weights.items()})
    except RuntimeError as error:
        raise DataError(
            "the weights of the model do not have the widths of its settings; load the folder that the training wrote"
        ) from error
    return half, _tensor((x - part.mean) / part.scale)


# ---- checks ---------------------------------------------------------------------------------------------------------


def _moments(x: Floats, *, allow_none: bool = False) -> tuple[Floats, Floats]:
    """Mean and spread of each column, the spread of a constant one being 1."""
    if x.ndim != 2 or len(x) < 2 or (x.shape[1] == 0 and not allow_none):
        raise DataError(
            f"rows of shape {list(x.shape)} cannot train a split network; allowed: two rows or more, and at a partner a "
            "column or more"
        )
    _check_values(x)
    spread = x.std(axis=0)
    return x.mean(axis=0), np.where(spread > 0, spread, 1.0)


def _check_values(x: Floats) -> None:
    wrong = np.flatnonzero(~np.isfinite(x).all(axis=0))
    if len(wrong):
        raise DataError(
            f"column {wrong[0] + 1} of {x.shape[1]} has values that are missing or infinite, and {len(wrong)} columns in "
            "all; a split network takes finite numbers: fill missing values in, or use weights of evidence"
        )


def _check_labels(y: Floats, rows: int) -> None:
    if y.shape != (rows,):
        raise DataError(f"labels of shape {list(y.shape)} came for {rows} rows; give one for each row")
    if not np.isin(y, (0.0, 1.0)).all():
        raise DataError("the label of a split network is 0 or 1 in every row; choose another label or model")
    if y.min() == y.max():
        raise DataError(
            f"every label is {y[0]:.0f}; there is nothing to learn: rows of both classes are needed"
        )


def _check_finite(values: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise DataError("the training diverged: numbers are no longer finite; lower lr")


def _gradient(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    if tensor.grad is None:
        raise RuntimeError("the loss did not depend on the activations")
    found: npt.NDArray[np.float32] = tensor.grad.numpy()
    return found


def _tensor(values: Floats) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
