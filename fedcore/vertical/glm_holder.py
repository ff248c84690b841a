"""The label holder's part of a fit: it orders passes and looks, and decides when it ends. See `glm`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel
from fedcore.errors import JobError, ProtocolFailed
from fedcore.jobs.vertical import Logistic
from fedcore.vertical.glm_curvature import (
    Weights,
    for_product,
    holder_moments,
    preconditioner,
    start,
    steps_of,
)
from fedcore.vertical.glm_fit import Fit, Target, Watch, target_of, wald
from fedcore.vertical.glm_information import holder_information
from fedcore.vertical.glm_looks import (
    BEST,
    BETTER,
    WORSE,
    held_at_zero,
    holder_change,
    holder_far,
    holder_loss,
    holder_own,
    recv_mask,
    slopes_of,
    weights_of,
)
from fedcore.vertical.glm_orders import (
    CHANGE,
    DONE,
    FAR,
    INFORMATION,
    LOSS,
    MOST_FITS,
    PASS,
    SIGNS,
    Order,
    give,
)
from fedcore.vertical.glm_pass import (
    COLUMN_BITS,
    EXTRA,
    Z_BITS,
    Holder,
    block_of,
    holder_gradient,
    holder_predictor,
    holder_residual,
)
from fedcore.vertical.glm_setup import (
    agreed,
    blocks_of,
    check_rare,
    check_rows,
    columns_of,
    holder_setup,
    unsupported,
)
from fedcore.vertical.links import FAR as ONE_ROW
from fedcore.vertical.links import LARGEST_PERIOD, LINKS, PERIOD, mean_series, slope_series
from fedcore.vertical.sharing import Floats, Residues, minus, residues, scattered

LOOKS = (2, 5, 9)
"""After these passes and the last one it is looked whether rows are out of range."""
PATIENCE = 3
"""Looks at the loss without gain, after which it ends."""
LEAST_GAIN = 1e-5
"""Of the loss of a row."""


def fit_label_holder(
    channels: Sequence[Channel],
    x: Floats,
    y: Floats,
    settings: Logistic,
    watch: Watch,
    weights: Floats | None = None,
    held_out: tuple[Floats, Floats] | None = None,
) -> Fit:
    """The label holder's part of a fit.

    Args:
        channels: To the partners, in the order of the job.
        x: Own columns, (n, d) float64, standardised or weights of evidence, at most 128 in size.
        y: (n,): 0 or 1 (logistic), from 0 to 10,000 (Poisson), any number (linear).
        settings: Of the job.
        watch: Told of each pass.
        weights: Of rows, (n,), above 0; all 1 when None.
        held_out: Own columns and label of the test rows, for `early_stop`.

    Returns:
        Own coefficients and the intercept.

    Raises:
        DataError: Columns or label cannot be used.
        JobError: The settings ask for what the protocol has no answer for.
        ProtocolFailed: The parties do not agree, or the fit diverged.
        ProtocolError: A message is damaged.
        PeerLost: A partner is gone.
    """
    unsupported(settings, len(channels))
    own = columns_of(x)
    check_rare(own)
    numbers = _with_one(own)
    target = target_of(settings, y, len(x), weights)
    test = None
    if settings.early_stop:
        if held_out is None:
            raise JobError("early_stop: no test rows came with it", step="glm")
        test = (_with_one(columns_of(held_out[0])), held_out[1])
    test_rows = 0 if test is None else len(test[0])
    same = agreed(settings, len(x), test_rows)
    side = holder_setup(channels, same, x.shape[1])
    check_rows(settings, len(x), side.widths, test_rows)
    fit = _Fitting(side, settings, watch, target, numbers, test)
    fit.run()
    return fit.end()


def _with_one(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.full((len(numbers), 1), 1 << COLUMN_BITS), numbers], axis=1)


class _Fitting:
    """A fit under way."""

    def __init__(
        self,
        side: Holder,
        settings: Logistic,
        watch: Watch,
        target: Target,
        numbers: npt.NDArray[np.int64],
        test: tuple[npt.NDArray[np.int64], Floats] | None,
    ) -> None:
        self.side, self.settings, self.watch, self.target = side, settings, watch, target
        self.link = LINKS.get(settings.link)
        self.slices = blocks_of(len(numbers), settings.batch)
        self.blocks = [block_of(numbers[each]) for each in self.slices]
        self.test = None if test is None else (block_of(test[0]), test[1])
        size = sum(side.widths)
        self.ridge = np.full(size, settings.l2)
        self.ridge[0] = 0.0
        self.state = start(size, target.intercept, first=True)
        self.best: tuple[float, Weights] = (math.inf, self.state)
        self.period, self.passes = PERIOD, 0
        self.converged: bool | None = True if self.link is None else None
        self.trace: list[dict[str, float]] = []
        self.held = np.zeros(size, dtype=np.bool_)
        self.released = np.zeros(side.widths[0], dtype=np.bool_)
        for channel in side.channels:
            channel.send("glm.unit", np.array([target.unit]))
        watch("second moments", 0, 1)
        self.gram = holder_moments(side, self.blocks)
        self._matrix()
        watch("second moments", 1, 1)

    def _matrix(self) -> None:
        """The matrix of the steps, to the first partner too."""
        matrix = preconditioner(self.gram, self.target.curvature, self.ridge, self.held)
        self.steps = steps_of(matrix, self.ridge)
        self.side.channels[0].send("glm.matrix", matrix)

    def _order(self, kind: int) -> None:
        give(self.side.channels, Order(kind, period=self.period))

    def run(self) -> None:
        """Passes until the fit is done, for each set of held weights."""
        for _ in range(MOST_FITS):
            self._descend()
            if not self.settings.sign or not self._signs():
                return
        raise ProtocolFailed(
            f"the signs of the coefficients did not settle in {MOST_FITS} fits; drop variables that contradict "
            "each other",
            step="glm.signs",
        )

    def _descend(self) -> None:
        passes = 1 if self.link is None else self.settings.iterations
        self.best, since = (math.inf, self.state), 0
        for number in range(1, passes + 1):
            self._pass(number)
            self.watch("pass", number, passes)
            record: dict[str, float] = {"pass": self.passes, "period": self.period}
            self.trace.append(record)
            done = number == passes
            if self.settings.tolerance is not None and self.link is not None:
                self._order(CHANGE)
                record["change"] = holder_change(self.side, for_product(self.state.now - self.state.before))
                self.converged = record["change"] <= self.settings.tolerance
                done = done or self.converged
            if self.test is not None and self.link is not None:
                record["loss"] = self._loss()
                since = 0 if record["loss"] < self.best[0] - LEAST_GAIN else since + 1
                done = done or since == PATIENCE
                self._choose(record["loss"], done)
            if self.link is not None and (done or number in LOOKS) and self._grown(record):
                done = number == passes
                self.converged = False if done else self.converged
            if done:
                return

    def _pass(self, number: int) -> None:
        target, several = self.target, len(self.blocks) > 1
        rate = 2.0 / (1 + number) if several else 1.0
        momentum = 0.0 if several or self.link is None else target.momentum
        for i, (rows, block) in enumerate(zip(self.slices, self.blocks, strict=True)):
            gain = rate * len(target.y) / len(block.numbers)
            give(self.side.channels, Order(PASS, i, self.period, momentum, gain, rate))
            self.z = self._shifted(
                holder_predictor(self.side, block, for_product(self.state.ahead(momentum)))
            )
            self.gradient = holder_gradient(self.side, block, self._residual(rows))
            self.state = self.state.stepped(self.steps, self.gradient, momentum, gain, rate)
        self.passes += 1

    def _shifted(self, z: Residues) -> Residues:
        """z with the middle of the interval at 0."""
        if self.link is None:
            return z
        middle = self.link.centre(self.period) + math.log(self.target.level)
        return minus(z, residues(np.array([round(middle * 2**Z_BITS)], dtype=object)))

    def _residual(self, rows: slice) -> Residues:
        target = self.target
        if self.link is None:
            return residues(scattered((target.intercept - target.y[rows]) * 2**EXTRA))
        series = mean_series(self.link, self.period)
        return holder_residual(self.side, self.z, series, target.y[rows], target.weights[rows], target.level)

    def _grown(self, record: dict[str, float]) -> bool:
        """Whether rows were out of range; the period is then doubled."""
        self._order(FAR)
        record["far"] = holder_far(self.side, self.z, self.period)
        if record["far"] <= ONE_ROW:
            return False
        if self.period >= LARGEST_PERIOD:
            raise ProtocolFailed(
                f"predictors reach beyond {self.period / 2:g}: the fit diverges, or a column has outliers; set l2 "
                "higher, limit outliers, or use bins",
                step="glm.far",
            )
        self.period *= 2
        return True

    def _loss(self) -> float:
        if self.test is None:
            raise JobError("early_stop: no test rows came with it", step="glm")
        block, y = self.test
        self._order(LOSS)
        z = holder_predictor(self.side, block, for_product(self.state.now))
        return holder_loss(self.side, z, y, self.period)

    def _choose(self, loss: float, done: bool) -> None:
        """Keep the best weights, and go back to them at the end, at both holders of shares."""
        told = BETTER if loss < self.best[0] else BEST if done else WORSE
        if told == BETTER:
            self.best = (loss, self.state)
        elif told == BEST:
            self.state = self.best[1]
        self.side.channels[0].send("glm.choice", bytes([told]))

    def _signs(self) -> bool:
        """Hold weights of the wrong sign at zero, release what wants to be positive; whether there were any."""
        self._order(SIGNS)
        own = weights_of(holder_own(self.side, for_product(self.state.now)))
        slopes = slopes_of(holder_own(self.side, self.gradient))
        before = self.held
        first = self.side.widths[0]
        mine = held_at_zero(own, slopes, before[:first], self.released, len(self.target.y))
        mine[0] = False
        masks = [mine]
        masks += [recv_mask(ch, d) for ch, d in zip(self.side.channels, self.side.widths[1:], strict=True)]
        self.held = np.concatenate(masks)
        self._matrix()
        changed = bool((self.held != before).any())
        self.state = self.state.held(self.held)
        return changed

    def end(self) -> Fit:
        """Open the weights to their owners."""
        errors = self._errors() if self.settings.p_values else None
        self._order(DONE)
        own = weights_of(holder_own(self.side, for_product(self.state.now))) * self.target.unit
        p_values = None if errors is None else wald(own[1:], errors[1:])
        return Fit(
            own[1:],
            float(own[0]),
            self.passes,
            self.converged,
            None if errors is None else errors[1:],
            p_values,
            None if errors is None else float(errors[0]),
            tuple(self.trace),
        )

    def _errors(self) -> Floats:
        """Standard errors of own weights; the partner gets its own."""
        if self.link is None:
            raise JobError("p_values: not for the linear link", step="glm")
        self._order(INFORMATION)
        block = self.blocks[0]
        z = self._shifted(holder_predictor(self.side, block, for_product(self.state.now)))
        series = slope_series(self.link, self.period)
        return holder_information(
            self.side, block, z, series, self.target.weights, self.target.level, self.ridge
        )
