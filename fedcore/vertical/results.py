"""What one party keeps of a vertical job: all that its report and its tables are made of.

The steps of the job fill these records, each party its own; nothing here was not already known to that party.
They are JSON both ways (`as_dict`, `from_dict`), arrays as lists, so that a report can be drawn again later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fedcore.errors import DataError
from fedcore.vertical.record import Floats, Record

FORMAT = 1
"""Version of the JSON."""

LABEL_HOLDER, PARTNER = "label holder", "partner"


@dataclass(frozen=True)
class PartyFacts(Record):
    """One party as all parties know it from the job.

    Args:
        role: `label holder` or `partner`.
        data: Its data set's name.
        keys: Columns by which rows are matched.
        columns: Number of columns that it brings; None where not known.
    """

    name: str
    role: Literal["label holder", "partner"]
    data: str = ""
    keys: tuple[str, ...] = ()
    columns: int | None = None


@dataclass(frozen=True)
class JobFacts(Record):
    """What was agreed.

    Args:
        name, purpose: Of the job.
        parties: The label holder first.
        label_column: As named in the job.
        settings: The whole job as JSON; drawn as a table of parameters.
        run: Name of the run; empty when it has none.
        started, finished: UTC, ISO 8601; empty where not known.
    """

    name: str
    purpose: str
    parties: tuple[PartyFacts, ...]
    label_column: str
    settings: dict[str, Any] = field(default_factory=dict)
    run: str = ""
    started: str = ""
    finished: str = ""


@dataclass(frozen=True)
class MatchGroup(Record):
    """Rows of this party with one value of a column (month, channel), and how many of them matched."""

    name: str
    rows: int
    matched: int


@dataclass(frozen=True)
class MatchReport(Record):
    """How this party's rows met those of the others.

    Args:
        rows: That this party brought.
        matched: In common of all parties.
        others: Rows that each other party brought, by name, where the protocol told.
        left_out: Rows not brought into the match, by reason (`no key`, `key twice`).
        groups: Match rate by a column of this party.
        group_column: That column.
    """

    rows: int
    matched: int
    others: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    groups: tuple[MatchGroup, ...] = ()
    group_column: str = ""


@dataclass(frozen=True)
class PartFacts(Record):
    """A part of the matched rows.

    Args:
        name: `train`, `test` or `out of time`.
        rows: Number.
        bad: Rows with the event; None at a partner and for labels that are not 0 or 1.
    """

    name: str
    rows: int
    bad: int | None = None


@dataclass(frozen=True)
class VariableFacts(Record):
    """A variable and its bins, as far as this party knows them.

    Args:
        owner: Whose column.
        name: Its name, or an anonymous one (`partner-b 3`) where it is another's.
        labels: Of the bins, special and missing ones last; None where it is another's.
        rows: Rows per bin and part, part name to counts; training rows at least where known.
        good, bad: Training rows per bin; None at a partner.
        woe: ln((bad_i / B) / (good_i / G)) per bin; None where not known.
        iv: Information value.
        missing: Share of missing values on training rows.
        stability: Population stability index against training rows, by part.
        vif: Variance inflation factor.
        kept: Whether models use it.
        reason: Why it went; empty when kept.
        regular: How many of the bins, from the first, follow one another as ranges; all but the last when None.
    """

    owner: str
    name: str
    labels: tuple[str, ...] | None = None
    rows: dict[str, tuple[int, ...]] = field(default_factory=dict)
    good: tuple[int, ...] | None = None
    bad: tuple[int, ...] | None = None
    woe: tuple[float, ...] | None = None
    iv: float | None = None
    missing: float | None = None
    stability: dict[str, float] = field(default_factory=dict)
    vif: float | None = None
    kept: bool = True
    reason: str = ""
    regular: int | None = None


@dataclass(frozen=True, eq=False)
class Correlations(Record):
    """Correlations of variables on training rows.

    Args:
        names: Of rows and columns, as in `VariableFacts.name`.
        values: (names, names), in [-1, 1]; NaN where not known.
    """

    names: tuple[str, ...]
    values: Floats


@dataclass(frozen=True)
class CoefficientFacts(Record):
    """One coefficient that this party holds.

    Args:
        name: Of the variable, as in `VariableFacts.name`.
        value: Of the coefficient.
        standard_error, p_value: None unless the job asked for them.
        sign_ok: Whether it has the sign that it must have (0 or more on weights of evidence); None where nothing is asked.
    """

    owner: str
    name: str
    value: float
    standard_error: float | None = None
    p_value: float | None = None
    sign_ok: bool | None = None


@dataclass(frozen=True)
class Importance(Record):
    """What a variable contributed to the trees: number of splits, summed gain where known."""

    owner: str
    name: str
    splits: int
    gain: float | None = None


@dataclass(frozen=True)
class CardVariable(Record):
    """Points of one variable of this party.

    Args:
        name: As in `VariableFacts.name`.
        labels: Of its bins.
        points: One per bin.
    """

    name: str
    labels: tuple[str, ...]
    points: tuple[int, ...]


@dataclass(frozen=True)
class ReasonExample(Record):
    """A scored row and why it lost points.

    Args:
        row: How it is called here; never a key.
        score: Joint score, or this party's own points at a partner.
        reasons: Each with the points below the best bin, most first (`PAY_0: −41`).
    """

    row: str
    score: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class CardFacts(Record):
    """The part of a scorecard that this party keeps.

    Args:
        base, odds, pdo: Of the job.
        variables: Those of this party.
        examples: Reason codes of a few rows.
    """

    base: float
    odds: float
    pdo: float
    variables: tuple[CardVariable, ...]
    examples: tuple[ReasonExample, ...] = ()


@dataclass(frozen=True)
class AttackFacts(Record):
    """One leakage attack run on the party's own model: its name, its AUC, and what it stands for."""

    attack: str
    auc: float
    note: str = ""


@dataclass(frozen=True, eq=False)
class ModelResult(Record):
    """One model, as far as this party knows it.

    Args:
        name: In the job; the first model of a result is the champion.
        use: `logistic`, `boosting` or `split-network`.
        target: What scores are: `binary` probabilities of bad, `number` predictions, `classes` one column each.
        settings: Its part of the job.
        coefficients: Of this party.
        intercept: At the label holder of a linear model.
        iterations: Passes, or trees, or epochs.
        converged: None where that has no meaning.
        trace: One figure per iteration that this party saw (`trace_name`); empty when it saw none.
        importances: Of trees.
        scores: By part, (rows,) or (rows, classes); None at a partner.
        own_scores: The same of a model on the label holder's columns alone, for uplift and swap set.
        card: None without a scorecard.
        attacks: Of the leakage audit.
        notes: Sentences to be read beside it.
    """

    name: str
    use: Literal["logistic", "boosting", "split-network"]
    target: Literal["binary", "number", "classes"] = "binary"
    settings: dict[str, Any] = field(default_factory=dict)
    coefficients: tuple[CoefficientFacts, ...] = ()
    intercept: float | None = None
    iterations: int | None = None
    converged: bool | None = None
    trace: tuple[float, ...] = ()
    trace_name: str = ""
    importances: tuple[Importance, ...] = ()
    scores: dict[str, Floats] | None = None
    own_scores: dict[str, Floats] | None = None
    card: CardFacts | None = None
    attacks: tuple[AttackFacts, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProtocolFacts(Record):
    """What ran in a step.

    Args:
        step: Of the job (`match`, `bin`, `select`, `train champion`).
        name: Of the protocol, with its source.
        parameters: Name to text, such as `ring size` to `4096`.
        assumption: Under which it protects.
    """

    step: str
    name: str
    parameters: dict[str, str] = field(default_factory=dict)
    assumption: str = ""


@dataclass(frozen=True)
class StepCost(Record):
    """Wall clock and traffic of a step at this party: seconds, bytes sent and received."""

    step: str
    seconds: float
    sent: int
    received: int


@dataclass(frozen=True, eq=False)
class PartyResult(Record):
    """All that one party's report shows.

    Args:
        party, role: Whose report this is.
        job, match, split, variables, models: See there; the first model is the champion.
        labels: By part, (rows,) in the order of the scores; None at a partner.
        correlations: None when they were not computed.
        protocols: In the order of the steps.
        leakage: Whole sentences: who learned what beyond its own results.
        hashes: What to SHA-256 in hex (`input file`, `job`, `package`).
        versions: Software name to version.
        costs: In the order of the steps.
    """

    party: str
    role: Literal["label holder", "partner"]
    job: JobFacts
    match: MatchReport
    split: tuple[PartFacts, ...]
    variables: tuple[VariableFacts, ...] = ()
    models: tuple[ModelResult, ...] = ()
    labels: dict[str, Floats] | None = None
    correlations: Correlations | None = None
    protocols: tuple[ProtocolFacts, ...] = ()
    leakage: tuple[str, ...] = ()
    hashes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    costs: tuple[StepCost, ...] = ()
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Refuse what a report could not draw.

        Raises:
            DataError: On anything counted from labels at a partner, scores of another length than the labels, an
                unknown format.
        """
        if self.format != FORMAT:
            raise DataError(
                f"result: format {self.format} is not {FORMAT}; draw it with the fedcore that wrote it"
            )
        if self.role == PARTNER and (told := self._of_labels()):
            raise DataError(f"result: a partner has no {', '.join(told)}; leave them out", party=self.party)
        for model in self.models:
            scored = {f"model {model.name}": model.scores, f"model {model.name}, own": model.own_scores}
            for name, scores in scored.items():
                _check_scores(name, scores, self.labels)

    def _of_labels(self) -> list[str]:
        """What is here that only the label holder can know."""
        found = {
            "labels": self.labels is not None,
            "bad rows of a part": any(each.bad is not None for each in self.split),
            "bad rows of a bin": any((each.good, each.bad) != (None, None) for each in self.variables),
            "scores": any(each.scores or each.own_scores for each in self.models),
        }
        return [name for name, there in found.items() if there]


def _check_scores(name: str, scores: dict[str, Floats] | None, labels: dict[str, Floats] | None) -> None:
    for part, values in (scores or {}).items():
        if labels is None or part not in labels:
            raise DataError(f"result: {name} has scores of {part!r} rows, whose labels are missing")
        if len(values) != len(labels[part]):
            raise DataError(f"result: {name} has {len(values)} scores of {len(labels[part])} {part} rows")
        if not np.isfinite(values).all():
            raise DataError(f"result: {name} has scores of {part} rows that are not finite numbers")
