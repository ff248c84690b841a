"""Gradients of single rows, kept as what they are made of: their norms, and their weighted sum, without the gradients.

The gradient of one row in the weight of a linear layer is a sum over positions, D^T A, with A the layer's input and D the
gradient of its output. Its squared norm takes either of two ways, whichever takes less work:

    ghost        sum over positions t, s of (a_t . a_s)(d_t . d_s)        t^2 (k + o) products a row
    made         the gradient itself, [o, k]                              t k o products a row

and the weighted sum over rows, with weights c, is one matrix product, (c D)^T A, over rows and positions together. Convolutions
are linear layers over unfolded inputs; an embedding is one over unit vectors.

On a GPU both ways are kernels that make a tile at a time (`fedcore.learning.kernels.norms`), and so is the sum
(`fedcore.learning.kernels.accumulate`); what a norm made is kept for the sum where it is small.

A ghost norm is a difference of large numbers where positions cancel each other, so that it is made in float64, and what rounding
can take from the sum is added (`fedcore.learning.kernels.norms.with_slack`). A norm that is made is that of the gradient as it is
rounded, and the sum is of the same gradient: kept, or made again in the same pieces. So no clip is too weak, but for the rounding
of sums of squares (less than 1e-5 of a norm).

Source: Goodfellow 2015, arXiv 1510.01799 (linear layers); Li et al., ICLR 2022, arXiv 2110.05679 (sequences); Bu, Mao and Xu,
NeurIPS 2022, arXiv 2205.10683 (the choice of the way, convolutions); Bu et al., ICML 2023, arXiv 2210.00038 (the sum from what
the norms were made of, "book-keeping").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from fedcore.learning.kernels import accumulate, dispatch, norms

AT_A_TIME = 2**24
"""Numbers that a norm makes at a time, at most (64 MiB in float32)."""
KEPT = 2**26
"""Numbers of gradients that a GPU keeps from a norm for the sum, at most (256 MiB): beyond, the sum makes them again."""

_HALF = frozenset((torch.float16, torch.bfloat16))


class Part(Protocol):
    """Gradients of rows in one parameter."""

    def squared_norms(self) -> torch.Tensor:
        """float64, `[n]`: of what `weighted_sum` sums, too small by 1e-5 of it at most."""
        ...

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """The sum over rows of weight times gradient; `weights` is `[n]`."""
        ...

    def each(self) -> torch.Tensor:
        """The gradients themselves, `[n, ...]`: large."""
        ...


@dataclass
class Outer:
    """Sums of outer products: the weight of a linear layer or of a convolution.

    Args:
        inputs: A, `[n, g, t, k]`: rows, groups, positions, inputs. Of half precision, what is made of it is float32.
        outputs: D, `[n, g, t, o]`, of the same type.
        shape: Of the parameter, with (out, in, kernel...) for a convolution.
    """

    inputs: torch.Tensor
    outputs: torch.Tensor
    shape: tuple[int, ...]
    _made: torch.Tensor | None = field(default=None, repr=False)
    _piece: int = field(default=0, repr=False)

    def squared_norms(self) -> torch.Tensor:
        """See `Part`."""
        n, g, t, k = self.inputs.shape
        o = self.outputs.shape[3]
        if t == 1 and g == 1:
            return norms.squares(self.inputs) * norms.squares(self.outputs)
        if dispatch.usable(self.inputs, self.outputs):
            return self._by_kernel()
        # In float64, at half the pace and of twice the size, and what is made serves the sum too.
        ghost = 4 * t * (k + o) < k * o
        size = g * (4 * t * t if ghost else k * o)
        most = max(1, AT_A_TIME // max(1, size))
        if n <= most and not ghost:
            self._made = self._gradients(0, n)
            return norms.squares(self._made)
        self._piece = 0 if ghost else most
        found = [
            self._ghost(i, i + most) if ghost else norms.squares(self._gradients(i, i + most))
            for i in range(0, n, most)
        ]
        return torch.cat(found) if found else self.inputs.new_zeros(0, dtype=torch.float64)

    def _by_kernel(self) -> torch.Tensor:
        n, g, t, k = self.inputs.shape
        o = self.outputs.shape[3]
        # Groups are rows of their own until their norms are added.
        inputs, outputs = self.inputs.reshape(n * g, t, k), self.outputs.reshape(n * g, t, o)
        if norms.ghost_is_less(t, k, o) or n * g * k * o > KEPT:
            return norms.squared_norms(inputs, outputs).view(n, g).sum(1)
        found, made = norms.norms_and_gradients(inputs, outputs)
        self._made = made
        return found.view(n, g).sum(1)

    def _gradients(self, start: int, end: int) -> torch.Tensor:
        """Of some rows, `[n, g, o, k]`."""
        return _wide(self.outputs[start:end]).mT @ _wide(self.inputs[start:end])

    def _ghost(self, start: int, end: int) -> torch.Tensor:
        inputs, outputs = self.inputs[start:end], self.outputs[start:end]
        kind = torch.promote_types(inputs.dtype, torch.float32)
        # Groups are rows of their own until their norms are added.
        each = norms.ghost_norms(inputs.flatten(0, 1).double(), outputs.flatten(0, 1).double(), kind)
        return each.view(len(inputs), -1).sum(1)

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """See `Part`."""
        n, g, t, k = self.inputs.shape
        o = self.outputs.shape[3]
        weights = _wide(weights)
        if self._made is not None:
            return self._shaped((weights @ self._made.view(n, -1)).view(1, g, o, k))[0]
        if self._piece:
            total = weights.new_zeros(g * o * k)
            for start in range(0, n, self._piece):
                made = self._gradients(start, start + self._piece)
                total += weights[start : start + self._piece] @ made.view(len(made), -1)
            return self._shaped(total.view(1, g, o, k))[0]
        if g == 1 and dispatch.usable(self.inputs, self.outputs, weights):
            flat = accumulate.weighted_sum(self.inputs[:, 0], self.outputs[:, 0], weights)
            return self._shaped(flat.view(1, 1, o, k))[0]
        inputs, scaled = _wide(self.inputs), _wide(self.outputs) * weights.view(n, 1, 1, 1)
        if g == 1:
            flat = scaled.reshape(n * t, o).T @ inputs.reshape(n * t, k)
            return self._shaped(flat.view(1, 1, o, k))[0]
        return self._shaped(torch.einsum("ngto,ngtk->gok", scaled, inputs)[None])[0]

    def each(self) -> torch.Tensor:
        """See `Part`."""
        return self._shaped(self._gradients(0, len(self.inputs)))

    def _shaped(self, found: torch.Tensor) -> torch.Tensor:
        """`[n, g, o, k]` as gradients; inputs of a convolution are unfolded channels last."""
        if len(self.shape) == 2:
            return found.reshape(-1, *self.shape)
        out, channels, *kernel = self.shape
        return found.reshape(-1, out, *kernel, channels).movedim(-1, 2)


@dataclass
class Rows:
    """Gradients as they are: biases, scales and shifts of normalisation.

    Args:
        gradients: `[n, ...]`.
    """

    gradients: torch.Tensor

    def squared_norms(self) -> torch.Tensor:
        """See `Part`."""
        return norms.squares(self.gradients)

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """See `Part`."""
        flat = _wide(weights) @ _wide(self.gradients).reshape(len(self.gradients), -1)
        return flat.view(self.gradients.shape[1:])

    def each(self) -> torch.Tensor:
        """See `Part`."""
        return self.gradients


@dataclass
class Lookup:
    """The weight of an embedding.

    Args:
        ids: int64, `[n, t]`.
        outputs: D, `[n, t, e]`; zero where an id is the padding.
        entries: Of the embedding.
    """

    ids: torch.Tensor
    outputs: torch.Tensor
    entries: int

    def squared_norms(self) -> torch.Tensor:
        """See `Part`."""
        n, t, e = self.outputs.shape
        most = max(1, AT_A_TIME // max(1, t * max(t, e)))
        found = []
        for start in range(0, n, most):
            ids, d = self.ids[start : start + most], self.outputs[start : start + most]
            # Positions with the same id fall into the same slot, the position of the id's first of them when sorted.
            order = ids.argsort(dim=1)
            ranked = ids.gather(1, order)
            new = torch.ones_like(ranked)
            new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
            slot = torch.empty_like(ids).scatter_(1, order, new.cumsum(1) - 1)
            lengths = norms.squares(d.reshape(-1, e)).sqrt_().view(-1, t).sum(1)
            eps = torch.finfo(torch.promote_types(d.dtype, torch.float32)).eps
            d = d.double()
            sums = torch.zeros_like(d).scatter_add_(1, slot[:, :, None].expand_as(d), d)
            # Vectors of one id may cancel each other, and the sum rounds what is left of them.
            found.append((norms.squares(sums).sqrt_() + norms.SUM_UNITS * eps * lengths).square_())
        return torch.cat(found) if found else self.outputs.new_zeros(0, dtype=torch.float64)

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """See `Part`."""
        e = self.outputs.shape[2]
        scaled = (_wide(self.outputs) * _wide(weights).view(-1, 1, 1)).reshape(-1, e)
        return scaled.new_zeros(self.entries, e).index_add_(0, self.ids.flatten(), scaled)

    def each(self) -> torch.Tensor:
        """See `Part`."""
        n, _, e = self.outputs.shape
        outputs = _wide(self.outputs)
        made = outputs.new_zeros(n, self.entries, e)
        return made.scatter_add_(1, self.ids[:, :, None].expand_as(outputs), outputs)


def joined(parts: list[Part]) -> Part:
    """One part for a parameter that was used several times.

    Uses of one kind are positions of one long sequence; of different kinds, gradients are made and added.
    """
    first, *rest = parts
    if not rest:
        return first
    outers = [part for part in parts if isinstance(part, Outer)]
    if len(outers) == len(parts):
        inputs = torch.cat([part.inputs for part in outers], dim=2)
        return Outer(inputs, torch.cat([part.outputs for part in outers], dim=2), outers[0].shape)
    lookups = [part for part in parts if isinstance(part, Lookup)]
    if len(lookups) == len(parts):
        ids = torch.cat([part.ids for part in lookups], dim=1)
        return Lookup(ids, torch.cat([part.outputs for part in lookups], dim=1), lookups[0].entries)
    total = first.each()
    for part in rest:
        total = total + part.each()
    return Rows(total)


def _wide(values: torch.Tensor) -> torch.Tensor:
    """In float32, if they are of half precision: sums and squares of it overflow and round a clip away."""
    return values.float() if values.dtype in _HALF else values
