"""The vertical job: parties with different columns about the same people build one model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedcore.errors import did_you_mean
from fedcore.jobs.common import Bytes, Name, Seconds, Strict
from fedcore.jobs.psi import COORDINATOR, Items

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]

FEWEST = 5
"""Rows in a bin or a leaf whose totals another party may learn; a job may ask for more, never for fewer."""


class VerticalParty(Strict):
    """What one party brings.

    Args:
        data: The data set's name in the party's catalogue.
        key: The column, or the columns in the same order as the other parties', by which rows are matched.
        columns: The columns to use; all but the key, the label and the column of the split when None.
    """

    data: Name
    key: str | tuple[str, ...]
    columns: tuple[str, ...] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The key's columns, also where there is one."""
        return (self.key,) if isinstance(self.key, str) else self.key


class Label(Strict):
    """What is predicted.

    Args:
        party: Who has it; nobody else learns it.
        column: 0 or 1, 1 is the event (bad); for the links of counts and amounts a number.
    """

    party: Name
    column: str


class OutOfTime(Strict):
    """The rows of a later time, kept for validation.

    Args:
        column: Of the label holder; a text that sorts by time, a date or a number.
        from_: Rows at or after it are out of time.
    """

    column: str
    from_: str | float = Field(alias="from")


class Split(Strict):
    """Which rows validate.

    Args:
        test: Share of rows, chosen by a keyed hash to whose key all parties contributed.
        out_of_time: Rows of a later time; none when None.
    """

    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    out_of_time: OutOfTime | None = None


class Bin(Strict):
    """How columns become bins with a weight of evidence.

    Args:
        method: `monotone` merges until bad rates rise or fall; `quantile` leaves equal shares.
        max_bins: Most bins of a variable, without those of special values and missing ones.
        min_share: Least share of rows of a bin.
        prebins: Bins by quantile before merging.
        min_rows: Least rows of a bin whose totals the label holder learns.
        special: Values with a bin of their own, by column.
    """

    method: Literal["monotone", "quantile"] = "monotone"
    max_bins: Annotated[int, Field(ge=2, le=64)] = 10
    min_share: Share = 0.05
    prebins: Annotated[int, Field(ge=2, le=255)] = 32
    min_rows: Annotated[int, Field(ge=FEWEST)] = 20
    special: dict[str, tuple[float | str, ...]] = Field(default_factory=dict)


class Select(Strict):
    """Which variables stay.

    Args:
        iv: Least and most information value.
        missing: Most share of missing values.
        correlation: Of two that correlate more, the one with the lower information value goes.
        vif: Largest variance inflation factor.
        stability: Largest population stability index of training rows against test and out-of-time rows.
        sign: Whether a variable goes whose coefficient contradicts its weight of evidence.
    """

    iv: tuple[Annotated[float, Field(ge=0)], Positive] = (0.02, 5.0)
    missing: Share = 0.95
    correlation: Share = 0.8
    vif: Annotated[float, Field(gt=1)] = 10.0
    stability: Positive = 0.25
    sign: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Select:
        if self.iv[0] >= self.iv[1]:
            raise ValueError("iv: the least information value is not below the most")
        return self


class Scorecard(Strict):
    """How log-odds become points.

    Args:
        base: Points at `odds`.
        odds: Good rows to one bad one.
        pdo: Points that double the odds.
    """

    base: float = 600.0
    odds: Positive = 20.0
    pdo: Positive = 20.0


class Logistic(Strict):
    """A generalised linear model without a third party.

    Args:
        link: `logistic`, `linear` or `poisson`.
        on: `woe` (weights of evidence of the bins) or `values` (standardised columns).
        l2: Penalty on the squared coefficients, on the scale of scikit-learn's 1 / C; the intercept has none.
        class_weight: `balanced` weighs both classes equally.
        sign: Whether every coefficient on a weight of evidence is held at the sign that it must have.
        iterations: Most passes over the rows.
        tolerance: The largest change of a coefficient at which it ends; it is looked at in the clear.
        batch: Rows of a step; all when None.
        early_stop: Whether a protected loss on the test rows is opened to the label holder, to stop.
        p_values: Whether the information matrix is opened at the end, for standard errors.
        scorecard: Points; none when None.
    """

    use: Literal["logistic"]
    link: Literal["logistic", "linear", "poisson"] = "logistic"
    on: Literal["woe", "values"] = "woe"
    l2: Annotated[float, Field(ge=0)] = 1.0
    class_weight: Literal["balanced"] | None = None
    sign: bool = False
    iterations: Annotated[int, Field(ge=1, le=1000)] = 30
    tolerance: Positive | None = None
    batch: Annotated[int, Field(ge=1)] | None = None
    early_stop: bool = False
    p_values: bool = False
    scorecard: Scorecard | None = None

    @model_validator(mode="after")
    def _fits(self) -> Logistic:
        if self.scorecard is not None and (self.link, self.on) != ("logistic", "woe"):
            raise ValueError("scorecard: points are for the logistic link on weights of evidence")
        return self


class Boosting(Strict):
    """Gradient-boosted trees of the SecureBoost family.

    Args:
        loss: `binary`, `regression` or `multiclass`.
        trees, depth, lr: Number, most levels of splits, shrinkage.
        bins: Most bins of a column.
        l2: Penalty on leaf weights.
        min_gain: Least gain of a split.
        min_leaf: Least rows of a leaf.
        min_bin: Least rows on each side of a partner's split candidate.
        own_first: Trees that the label holder grows alone, first.
        goss: Shares of rows with large gradients that stay, and of the others that are drawn; all rows when None.
    """

    use: Literal["boosting"]
    loss: Literal["binary", "regression", "multiclass"] = "binary"
    trees: Annotated[int, Field(ge=1, le=10_000)] = 50
    depth: Annotated[int, Field(ge=1, le=10)] = 4
    lr: Positive = 0.1
    bins: Annotated[int, Field(ge=2, le=255)] = 32
    l2: Annotated[float, Field(ge=0)] = 1.0
    min_gain: Annotated[float, Field(ge=0)] = 0.0
    min_leaf: Annotated[int, Field(ge=FEWEST)] = 20
    min_bin: Annotated[int, Field(ge=FEWEST)] = FEWEST
    own_first: Annotated[int, Field(ge=0)] = 0
    goss: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=0, lt=1)]] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Boosting:
        if self.goss is not None and sum(self.goss) >= 1:
            raise ValueError("goss: the two shares come to 1 or more; leave goss out to take all rows")
        return self


class SplitNetwork(Strict):
    """A network whose lower halves are at the parties and whose upper half is at the label holder.

    Args:
        bottom: Widths of the layers of each party; the last is what the label holder sees of a row.
        top: Widths of the label holder's hidden layers.
        epochs, batch, lr: Of training.
        protect: How gradients to the partners hide labels: `max-norm`, `noise` or `none`.
        noise: Standard deviation of `noise`, as a share of the largest gradient norm of a batch.
    """

    use: Literal["split-network"]
    bottom: tuple[Annotated[int, Field(ge=1)], ...] = (32, 8)
    top: tuple[Annotated[int, Field(ge=1)], ...] = (16,)
    epochs: Annotated[int, Field(ge=1)] = 10
    batch: Annotated[int, Field(ge=2)] = 256
    lr: Positive = 0.01
    protect: Literal["max-norm", "noise", "none"] = "max-norm"
    noise: Positive = 1.0


Model = Annotated[Logistic | Boosting | SplitNetwork, Field(discriminator="use")]


class VerticalJob(Strict):
    """Build joint models over columns of several parties about the same people.

    Args:
        name: Names the run folder and stands in every log.
        purpose: Why; a participant's policy may allow only some purposes.
        label: Who has the label.
        parties: The label holder and one or more partners.
        items: What counts as the same key.
        models: By name; the first is the champion, and the others are compared with it.
        seed: Of what is drawn in the clear: starting weights of the partners' halves of a split network, rows of GOSS.
        memory_limit: For a party's keys while rows are matched.
        deadline: Longest wait for the parties in one step, seconds.
    """

    kind: Literal["vertical"]
    name: Name
    purpose: Name = "research"
    label: Label
    parties: dict[Name, VerticalParty]
    items: Items = Items()
    split: Split = Split()
    bin: Bin = Bin()
    select: Select = Select()
    models: dict[Name, Model]
    seed: int = 0
    memory_limit: Bytes | None = None
    deadline: Seconds = Field(default=3600.0)

    @property
    def partners(self) -> tuple[str, ...]:
        """The parties without the label, in the order of the job."""
        return tuple(name for name in self.parties if name != self.label.party)

    @model_validator(mode="after")
    def _fits(self) -> VerticalJob:
        if len(self.parties) < 2:
            raise ValueError("parties: name the label holder and at least one partner")
        if COORDINATOR in self.parties:
            raise ValueError(f"parties: {COORDINATOR!r} is the coordinator's name; rename the party")
        if self.label.party not in self.parties:
            raise ValueError(
                f"label.party: {self.label.party!r} is no party; {did_you_mean(self.label.party, self.parties)}"
            )
        lengths = {name: len(party.keys) for name, party in self.parties.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {number}" for name, number in lengths.items())
            raise ValueError(
                f"parties: the keys have different numbers of columns ({told}); they never match"
            )
        if not self.models:
            raise ValueError("models: name at least one, such as champion: {use: logistic}")
        return self
