"""Results as a small job would leave them at the label holder and at a partner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedcore.vertical.results import (
    AttackFacts,
    CardFacts,
    CardVariable,
    CoefficientFacts,
    Correlations,
    Importance,
    JobFacts,
    MatchGroup,
    MatchReport,
    ModelResult,
    PartFacts,
    PartyFacts,
    PartyResult,
    ProtocolFacts,
    ReasonExample,
    StepCost,
    VariableFacts,
)

ROWS = {"train": 400, "test": 200, "out of time": 100}


def make_result(seed: int = 0) -> PartyResult:
    """The label holder's: two models, a scorecard, all parts, one variable that went."""
    generator = np.random.default_rng(seed)
    labels, scores = {}, {name: {} for name in ("joint", "own", "trees", "trees own")}
    for part, rows in ROWS.items():
        labels[part] = (np.arange(rows) % 4 == 0).astype(float)
        for name, strength in (("joint", 1.5), ("own", 0.4), ("trees", 1.8), ("trees own", 0.5)):
            margin = strength * labels[part] - 1.5 + generator.normal(size=rows)
            scores[name][part] = 1 / (1 + np.exp(-margin))
    own = VariableFacts(
        "bank-a",
        "income",
        labels=("up to 1 000", "over 1 000", "missing"),
        rows={"train": (150, 240, 10), "test": (80, 115, 5), "out of time": (40, 60, 0)},
        good=(95, 197, 8),
        bad=(55, 43, 2),
        woe=(0.55, -0.42, -0.29),
        iv=0.21,
        missing=0.025,
        stability={"test": 0.004, "out of time": 0.02},
        vif=1.2,
    )
    anonymous = replace(own, owner="telecom-b", name="telecom-b 1", labels=None, iv=0.4)
    gone = replace(own, name="height", iv=0.003, kept=False, reason="information value 0.003 is below 0.02")
    linear = ModelResult(
        "scorecard",
        "logistic",
        coefficients=(CoefficientFacts("bank-a", "income", 0.8, 0.1, 1e-6, True),),
        intercept=-1.1,
        iterations=9,
        converged=True,
        trace=(0.6, 0.5, 0.45),
        trace_name="loss",
        scores=scores["joint"],
        own_scores=scores["own"],
        card=CardFacts(
            600.0,
            20.0,
            20.0,
            (CardVariable("income", ("up to 1 000", "over 1 000", "missing"), (12, 40, -3)),),
            (ReasonExample("lowest test row", 480.0, ("income: −28",)),),
        ),
    )
    trees = ModelResult(
        "trees",
        "boosting",
        iterations=20,
        importances=(
            Importance("telecom-b", "telecom-b 1", 14, 120.5),
            Importance("bank-a", "income", 9, 44.0),
        ),
        scores=scores["trees"],
        own_scores=scores["trees own"],
        attacks=(AttackFacts("norm", 0.61, "length of the gradient"),),
        notes=("Trees tell the partner which rows share a leaf.",),
    )
    return PartyResult(
        party="bank-a",
        role="label holder",
        job=JobFacts(
            "bank-risk",
            "credit risk",
            (
                PartyFacts("bank-a", "label holder", "loans", ("id",)),
                PartyFacts("telecom-b", "partner", "calls", ("id",)),
            ),
            "default",
            settings={"split": {"test": 0.3, "out_of_time": None}, "models": {"scorecard": {"sign": True}}},
            run="run-1",
            started="2026-01-02T03:04:05Z",
        ),
        match=MatchReport(
            900, 700, {"telecom-b": 1500}, {"no key": 3}, (MatchGroup("2026-01", 500, 400),), "month"
        ),
        split=tuple(PartFacts(part, rows, int(labels[part].sum())) for part, rows in ROWS.items()),
        variables=(own, anonymous, gone),
        models=(linear, trees),
        labels=labels,
        correlations=Correlations(("income", "telecom-b 1"), np.array([[1, -0.32], [-0.32, 1]])),
        protocols=(ProtocolFacts("bin", "grouped sums", {"ring size": "4096"}, "ring-LWE"),),
        leakage=("bank-a learned totals of anonymous bins.",),
        hashes={"data": "ab" * 32},
        versions={"fedcore": "0.1"},
        costs=(StepCost("match", 1.5, 2000, 3000), StepCost("bin", 0.5, 100, 1_000_000)),
    )


def make_partner_result() -> PartyResult:
    """The partner's of the same job."""
    whole = make_result()
    column = replace(
        whole.variables[0],
        owner="telecom-b",
        name="calls",
        labels=("few", "many", "missing"),
        good=None,
        bad=None,
        iv=None,
    )
    gone = replace(column, name="texts", kept=False, reason="missing 0.97 is above 0.95", woe=None)
    linear = ModelResult(
        "scorecard",
        "logistic",
        coefficients=(CoefficientFacts("telecom-b", "calls", 0.7, sign_ok=True),),
        iterations=9,
        converged=True,
        card=CardFacts(600.0, 20.0, 20.0, (CardVariable("calls", ("few", "many", "missing"), (5, 31, 0)),)),
    )
    return replace(
        whole,
        party="telecom-b",
        role="partner",
        match=MatchReport(1500, 700, {"bank-a": 900}),
        split=tuple(PartFacts(part, rows) for part, rows in ROWS.items()),
        variables=(column, gone),
        models=(linear,),
        labels=None,
        correlations=None,
    )
