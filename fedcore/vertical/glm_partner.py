"""The partners' part of a fit: they do what the label holder orders, as far as the job asks for it. See `glm`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crypto.channel import Channel, recv_array
from fedcore.errors import JobError, ProtocolFailed
from fedcore.jobs.vertical import Logistic
from fedcore.vertical.glm_curvature import (
    Steps,
    first_moments,
    for_product,
    other_moments,
    start,
    steps_of,
)
from fedcore.vertical.glm_fit import Fit, Watch, wald
from fedcore.vertical.glm_information import first_information
from fedcore.vertical.glm_looks import (
    BEST,
    BETTER,
    first_far,
    first_loss,
    first_own,
    held_at_zero,
    largest,
    other_own,
    slopes_of,
    weights_of,
)
from fedcore.vertical.glm_orders import CHANGE, DONE, FAR, INFORMATION, LOSS, PASS, SIGNS, Order, Orders
from fedcore.vertical.glm_pass import (
    Block,
    First,
    block_of,
    first_gradient,
    first_predictor,
    first_residual,
    other_gradient,
    other_predictor,
)
from fedcore.vertical.glm_setup import (
    agreed,
    blocks_of,
    check_rare,
    check_rows,
    columns_of,
    first_setup,
    other_setup,
    unsupported,
)
from fedcore.vertical.links import LINKS, mean_series, slope_series
from fedcore.vertical.sharing import Floats, Residues


def fit_partner(
    channel: Channel,
    x: Floats,
    settings: Logistic,
    watch: Watch,
    first: bool,
    others: Sequence[Channel] = (),
    to_first: Channel | None = None,
    held_out: Floats | None = None,
) -> Fit:
    """A partner's part of a fit.

    Args:
        channel: To the label holder.
        x: Own columns, (n, d) float64, standardised or weights of evidence, at most 128 in size.
        settings: Of the job.
        watch: Told of each pass.
        first: Whether this is the first partner in the order of the job.
        others: The first partner's channels to the further ones, in the order of the job.
        to_first: A further partner's channel to the first one.
        held_out: Own columns of the test rows, for `early_stop`.

    Returns:
        Own coefficients.

    Raises:
        DataError, JobError, ProtocolFailed, ProtocolError, PeerLost: As the label holder's.
    """
    unsupported(settings, 1 + len(others) if first else 2)
    numbers = columns_of(x)
    check_rare(numbers)
    blocks = [block_of(numbers[each]) for each in blocks_of(len(x), settings.batch)]
    if settings.early_stop and held_out is None:
        raise JobError("early_stop: no test rows came with it", step="glm")
    test = block_of(columns_of(held_out)) if settings.early_stop and held_out is not None else None
    test_rows = 0 if test is None else len(test.numbers)
    same = agreed(settings, len(x), test_rows)
    orders = Orders(channel, settings, len(blocks))
    if first:
        side = first_setup(channel, others, same, x.shape[1])
        check_rows(settings, len(x), side.widths, test_rows)
        return _First(side, settings, watch, blocks, test, orders).run()
    if to_first is None:
        raise JobError("a further partner has a channel to the first partner, none was given", step="glm")
    other, first_key, widths = other_setup(channel, to_first, same, x.shape[1])
    check_rows(settings, len(x), widths, test_rows)
    unit = _unit(channel)
    other_moments(other, blocks, first_key, widths)
    held = np.zeros(x.shape[1], dtype=np.bool_)
    released = held.copy()
    passes = 0
    while True:
        order = orders.take()
        if order.kind == PASS:
            other_predictor(other, blocks[order.block])
            other_gradient(other, blocks[order.block])
            passes += order.block == len(blocks) - 1
            watch("pass", passes, settings.iterations)
        elif order.kind == CHANGE:
            channel.send("glm.opened", largest(other_own(other, x.shape[1])))
        elif order.kind == LOSS and test is not None:
            other_predictor(other, test)
        elif order.kind == SIGNS:
            own = weights_of(other_own(other, x.shape[1]))
            slopes = slopes_of(other_own(other, x.shape[1]))
            held = held_at_zero(own, slopes, held, released, len(x))
            channel.send("glm.opened", held.astype(np.uint8))
        elif order.kind == DONE:
            return Fit(weights_of(other_own(other, x.shape[1])) * unit, iterations=passes)


def _unit(channel: Channel) -> float:
    unit = float(recv_array(channel, "glm.unit", np.float64, 1)[0])
    if not 2.0**-60 <= unit <= 2.0**60:
        raise ProtocolFailed("the unit of the label is out of range", step="glm.unit")
    return unit


class _First:
    """The first partner, which holds the other shares."""

    def __init__(
        self,
        side: First,
        settings: Logistic,
        watch: Watch,
        blocks: Sequence[Block],
        test: Block | None,
        orders: Orders,
    ) -> None:
        self.side, self.settings, self.watch = side, settings, watch
        self.blocks, self.test, self.orders = blocks, test, orders
        self.link = LINKS.get(settings.link)
        self.size = sum(side.widths)
        self.own = side.widths[1]
        self.state = start(self.size, 0.0, first=False)
        self.best = self.state
        self.ridge = np.full(self.size, settings.l2)
        self.ridge[0] = 0.0
        self.unit = _unit(side.channel)
        watch("second moments", 0, 1)
        first_moments(side, blocks)
        self.steps = self._matrix()
        watch("second moments", 1, 1)
        self.held = np.zeros(self.own, dtype=np.bool_)
        self.released = self.held.copy()
        self.passes = 0
        self.errors: Floats | None = None
        self.z: Residues | None = None
        self.gradient: Residues | None = None

    def _matrix(self) -> Steps:
        matrix = recv_array(self.side.channel, "glm.matrix", np.float64, self.size, self.size)
        if not (np.isfinite(matrix).all() and (np.abs(matrix) < 2.0**40).all()):
            raise ProtocolFailed("the matrix of the steps is out of range", step="glm.matrix")
        return steps_of(matrix, self.ridge)

    def run(self) -> Fit:
        """Follow orders until the end."""
        does = {
            PASS: self._pass,
            FAR: self._far,
            CHANGE: self._change,
            LOSS: self._loss,
            SIGNS: self._signs,
            INFORMATION: self._information,
        }
        while (order := self.orders.take()).kind != DONE:
            does[order.kind](order)
        own = weights_of(first_own(self.side, for_product(self.state.now))) * self.unit
        p_values = None if self.errors is None else wald(own, self.errors)
        return Fit(own, 0.0, self.passes, None, self.errors, p_values)

    def _pass(self, order: Order) -> None:
        block = self.blocks[order.block]
        z = first_predictor(self.side, block, for_product(self.state.ahead(order.momentum)))
        if self.link is None:
            e = np.zeros_like(z)
        else:
            e = first_residual(self.side, z, mean_series(self.link, order.period))
        self.z, self.gradient = z, first_gradient(self.side, block, e)
        self.state = self.state.stepped(self.steps, self.gradient, order.momentum, order.gain, order.rate)
        if order.block == len(self.blocks) - 1:
            self.passes += 1
            self.watch("pass", self.passes, self.settings.iterations)

    def _far(self, order: Order) -> None:
        if self.z is None:
            raise ProtocolFailed("the label holder orders a look before a pass", step="glm.order")
        first_far(self.side, self.z, order.period)

    def _change(self, order: Order) -> None:
        own = first_own(self.side, for_product(self.state.now - self.state.before))
        self.side.channel.send("glm.opened", largest(own))

    def _loss(self, order: Order) -> None:
        if self.test is None:
            raise JobError("early_stop: no test rows came with it", step="glm")
        z = first_predictor(self.side, self.test, for_product(self.state.now))
        first_loss(self.side, z, order.period)
        told = self.side.channel.recv("glm.choice", size=1)[0]
        if told == BETTER:
            self.best = self.state
        elif told == BEST:
            self.state = self.best

    def _signs(self, order: Order) -> None:
        if self.gradient is None:
            raise ProtocolFailed("the label holder orders a look before a pass", step="glm.order")
        own = weights_of(first_own(self.side, for_product(self.state.now)))
        slopes = slopes_of(first_own(self.side, self.gradient))
        self.held = held_at_zero(own, slopes, self.held, self.released, len(self.blocks[0].numbers))
        self.side.channel.send("glm.opened", self.held.astype(np.uint8))
        self.steps = self._matrix()
        self.state = self.state.held(self.steps.held)

    def _information(self, order: Order) -> None:
        if self.link is None:
            raise JobError("p_values: not for the linear link", step="glm")
        block = self.blocks[0]
        z = first_predictor(self.side, block, for_product(self.state.now))
        series = slope_series(self.link, order.period)
        self.errors = first_information(self.side, block, z, series)
