"""The steps after the rows are agreed, between parties in threads, against the pooled columns."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.metrics import roc_auc_score

from crypto.errors import ProtocolError
from fedcore.errors import DataError, FedcoreError, JobError
from fedcore.jobs.vertical import VerticalJob
from fedcore.peer.memory import MemoryChannel
from fedcore.vertical.boosted_part import Boosted
from fedcore.vertical.package import load_package
from fedcore.vertical.pipeline import Party, do
from fedcore.vertical.results import MatchReport, PartyResult
from fedcore.vertical.scoring import part_of
from fedcore.vertical.state import open_state, read_json
from fedcore.vertical.steps import pairs_of, steps_of
from fedcore.vertical.table import TRAIN, Table
from tests.banks import BANK, SHOP, TELECOM

ROWS = 600
RANDOM = np.random.default_rng(11)
X = RANDOM.normal(size=(ROWS, 6))
PREDICTOR = X @ [0.8, -0.5, 0.0, 0.7, 0.3, -0.4] - 0.8
EVENT = (RANDOM.random(ROWS) < 1 / (1 + np.exp(-PREDICTOR))).astype(float)
COUNT = RANDOM.poisson(np.exp(0.4 * PREDICTOR)).astype(float)
AMOUNT = 10 + 3 * PREDICTOR + RANDOM.normal(size=ROWS)
CLASS = np.digitize(PREDICTOR + RANDOM.normal(size=ROWS), [-1.5, 0]).astype(float)
PART = (RANDOM.random(ROWS) < 0.25).astype(np.int8)
OWNERS = {2: {BANK: [0, 1, 2], TELECOM: [3, 4, 5]}, 3: {BANK: [0, 1, 2], TELECOM: [3, 4], SHOP: [5]}}


def job_of(models: Mapping[str, Any], parties: int = 2, **settings: Any) -> VerticalJob:
    told = {
        "kind": "vertical",
        "name": "joint",
        "label": {"party": BANK, "column": "y"},
        "parties": {name: {"data": "d", "key": "k"} for name in OWNERS[parties]},
        "bin": {"min_rows": 10, "max_bins": 4},
        "select": {"iv": (0.0, 20.0), "sign": False},
        "models": models,
        **settings,
    }
    return VerticalJob.model_validate(told)


@dataclass
class Bench:
    """Parties with columns of X, each with a folder."""

    folder: Path
    job: VerticalJob
    label: Any = field(default_factory=lambda: EVENT)
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def table(self, name: str) -> Table:
        own = {f"x{number}": X[:, number] for number in OWNERS[len(self.job.parties)][name]}
        label = self.label if name == BANK else None
        return Table({**own, **self.columns.get(name, {})}, PART, label)

    def state(self, name: str) -> Any:
        return open_state(self.folder / name / "run-1", "digest", steps_of(self.job))

    def step(self, step: str) -> None:
        """All do it; the error of one that failed by itself is raised."""
        ends: dict[str, dict[str, Any]] = {name: {} for name in self.job.parties}
        for one, other in pairs_of(self.job):
            ends[one][other], ends[other][one] = MemoryChannel.pair(f"{one} {other}", names=(one, other))

        def party(name: str) -> Exception | None:
            state = self.state(name)
            try:
                with state.writing(step) as folder:
                    match = MatchReport(rows=ROWS, matched=ROWS)
                    who = Party(
                        name, self.job, "run-1", ends[name], self.table(name), state, folder,
                        lambda *told: None, match, {"data": "00"},
                    )  # fmt: skip
                    do(step, who)
                    state.finish(step, b"t" * 16)
            except (FedcoreError, ProtocolError) as error:
                for channel in ends[name].values():
                    channel.abort()
                return error
            return None

        with ThreadPoolExecutor(len(ends)) as pool:
            raised = [each for each in pool.map(party, ends) if each is not None]
        for each in raised:
            if type(each).__name__ != "PeerLost":
                raise each
        assert not raised

    def run(self) -> Bench:
        """All steps after `align`."""
        for name in self.job.parties:
            with self.state(name).writing("align"):
                self.state(name).finish("align", b"t" * 16)
        for step in steps_of(self.job)[1:]:
            self.step(step)
        return self

    def scores(self, model: str) -> Any:
        return np.load(self.state(BANK).of("score") / "scores.npz")[model]

    def coefficients(self, model: str) -> dict[str, float]:
        """Of all parties, by column."""
        found = {}
        for name in self.job.parties:
            told = read_json(self.state(name).of(f"model:{model}") / "model.json")
            found |= {each["name"]: each["value"] for each in told["coefficients"]}
        return found

    def result(self, name: str) -> PartyResult:
        return PartyResult.from_dict(read_json(self.state(name).of("report") / "result.json"))


def pooled() -> Any:
    """Columns as a model on values takes them."""
    train = X[PART == TRAIN]
    return (X - train.mean(axis=0)) / train.std(axis=0)


@pytest.mark.parametrize("parties", [2, 3])
def test_logistic_regression_on_values_is_that_of_the_pooled_columns(tmp_path: Path, parties: int) -> None:
    model = {"use": "logistic", "on": "values", "iterations": 40}
    bench = Bench(tmp_path, job_of({"joint": model}, parties)).run()
    z, train = pooled(), PART == TRAIN
    other = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(z[train], EVENT[train])
    found = bench.coefficients("joint")
    assert [found[f"x{n}"] for n in range(6)] == pytest.approx(other.coef_[0], abs=5e-3)
    assert bench.scores("joint") == pytest.approx(other.predict_proba(z)[:, 1], abs=5e-3)


def test_links_of_amounts_and_counts_have_no_bins_and_predict_as_the_pooled_models(tmp_path: Path) -> None:
    z, train = pooled(), PART == TRAIN
    linear = job_of({"joint": {"use": "logistic", "link": "linear", "on": "values", "l2": 2.0}})
    assert steps_of(linear) == ("align", "model:joint", "score", "report")
    bench = Bench(tmp_path / "linear", linear, AMOUNT).run()
    expected = Ridge(alpha=2.0).fit(z[train], AMOUNT[train]).predict(z)
    assert bench.scores("joint") == pytest.approx(expected, abs=0.05)
    counts = job_of({"joint": {"use": "logistic", "link": "poisson", "on": "values", "iterations": 60}})
    bench = Bench(tmp_path / "poisson", counts, COUNT).run()
    other = PoissonRegressor(alpha=1.0 / train.sum(), tol=1e-12, max_iter=1000).fit(z[train], COUNT[train])
    assert bench.scores("joint") == pytest.approx(other.predict(z), rel=0.03)
    assert bench.result(BANK).models[0].target == "number"


def test_a_scorecard_is_the_sum_of_both_parties_points(tmp_path: Path) -> None:
    card = {"use": "logistic", "iterations": 20, "scorecard": {}}
    bench = Bench(tmp_path, job_of({"card": card})).run()
    parts = {
        name: part_of(load_package(bench.state(name).of("report") / "packages" / "card"))
        for name in bench.job.parties
    }
    total = sum(part.score(bench.table(name)) for name, part in parts.items())  # type: ignore[union-attr, misc]
    p = bench.scores("card")
    factor = 20 / np.log(2)
    # Points are whole, odds of 20 to 1 have 600.
    assert 600 - factor * (np.log(p / (1 - p)) + np.log(20)) == pytest.approx(total, abs=1e-6)
    own = bench.result(TELECOM).models[0].card
    assert own is not None and all(each.name in ("x3", "x4", "x5") for each in own.variables)


def test_trees_score_as_their_packages_do_and_better_than_the_label_holder_alone(tmp_path: Path) -> None:
    trees = {"use": "boosting", "trees": 8, "depth": 3, "lr": 0.4, "min_leaf": 10}
    bench = Bench(tmp_path, job_of({"trees": trees})).run()
    train, model = PART == TRAIN, bench.result(BANK).models[0]
    joint = roc_auc_score(EVENT[train], bench.scores("trees")[train])
    assert model.own_scores is not None and model.scores is not None
    alone = roc_auc_score(EVENT[train], model.own_scores["train"])
    assert joint > alone > 0.6
    assert bench.scores("trees")[train] == pytest.approx(model.scores["train"])
    for name in bench.job.parties:
        part = part_of(load_package(bench.state(name).of("report") / "packages" / "trees"))
        assert isinstance(part, Boosted) and set(part.columns) == set(bench.table(name).columns)
    assert {each.owner for each in model.importances} == {BANK, TELECOM}
    assert all(each.owner == TELECOM for each in bench.result(TELECOM).models[0].importances)


def test_classes_and_amounts_are_learned_by_trees_without_bins_of_evidence(tmp_path: Path) -> None:
    told = {"use": "boosting", "trees": 3, "depth": 2, "min_leaf": 10}
    classes = Bench(tmp_path / "c", job_of({"t": {**told, "loss": "multiclass"}}), CLASS).run()
    assert classes.scores("t").shape == (ROWS, 3) and classes.scores("t").sum(axis=1) == pytest.approx(1.0)
    amounts = Bench(tmp_path / "a", job_of({"t": {**told, "loss": "regression"}}), AMOUNT).run()
    train = PART == TRAIN
    left = AMOUNT[train] - amounts.scores("t")[train]
    assert left.var() < AMOUNT[train].var()


def test_variables_whose_sign_contradicts_their_evidence_go_after_the_fit(tmp_path: Path) -> None:
    # Alone, the partner's column goes with more risk; beside the bank's, with which it correlates, with less.
    random = np.random.default_rng(4)
    with_it = 0.9 * X[:, 0] + 0.45 * random.normal(size=ROWS)
    odds = 3.0 * X[:, 0] - 2.0 * with_it
    label = (random.random(ROWS) < 1 / (1 + np.exp(-odds))).astype(float)
    columns = {TELECOM: {"with": with_it}}
    told = {"use": "logistic", "iterations": 30, "l2": 0.01}
    least = {}
    for sign in (False, True):
        select = {"iv": (0.0, 20.0), "correlation": 1.0, "vif": 1e9, "sign": sign}
        job = job_of({"m": told}, select=select)
        bench = Bench(tmp_path / str(sign), job, label, columns).run()
        least[sign] = min(bench.coefficients("m").values())
    assert least[False] < 0 <= least[True]
    went = [
        each
        for name in (BANK, TELECOM)
        for each in bench.result(name).variables
        if "coefficient" in each.reason
    ]
    assert went and all(not each.kept for each in went)


def test_each_report_tells_what_others_learned(tmp_path: Path) -> None:
    told = {"use": "split-network", "epochs": 1, "bottom": (4,), "top": (4,)}
    bench = Bench(tmp_path, job_of({"net": told})).run()
    bank, telecom = bench.result(BANK), bench.result(TELECOM)
    assert f"{BANK} learned which of its rows match rows of {TELECOM}." in telecom.leakage
    assert any("outputs of a bottom half" in each and each.startswith(BANK) for each in telecom.leakage)
    assert bank.models[0].attacks and telecom.labels is None
    assert [each.name for each in bank.split] == ["train", "test"]


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (np.full(ROWS, 3.0), "'c' has one value only, or none"),
        (np.full(ROWS, np.nan), "'c' has one value only, or none"),
        (np.array(["a", "b"] * (ROWS // 2), dtype=object), "'c' is text"),
    ],
    ids=["constant", "all missing", "text"],
)
def test_columns_that_a_model_on_values_cannot_take_are_named(tmp_path: Path, column: Any, why: str) -> None:
    job = job_of({"m": {"use": "logistic", "link": "linear", "on": "values"}})
    with pytest.raises(DataError, match=why):
        Bench(tmp_path, job, AMOUNT, {TELECOM: {"c": column}}).run()


@pytest.mark.parametrize(
    "values", [np.full(ROWS, 3.0), np.full(ROWS, np.nan)], ids=["constant", "all missing"]
)
def test_constant_and_missing_columns_go_from_a_model_on_evidence_and_do_not_hurt_trees(
    tmp_path: Path, values: Any
) -> None:
    models = {
        "card": {"use": "logistic", "iterations": 3},
        "trees": {"use": "boosting", "trees": 2, "depth": 2, "min_leaf": 10},
    }
    bench = Bench(tmp_path, job_of(models), columns={TELECOM: {"c": values}}).run()
    gone = [each for each in bench.result(TELECOM).variables if not each.kept]
    assert [each.name for each in gone] == ["c"] and gone[0].reason
    assert "c" not in bench.coefficients("card")


def test_a_step_that_a_job_does_not_have_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, job_of({"m": {"use": "logistic"}}))
    who = Party(
        BANK, bench.job, "r", {}, bench.table(BANK), bench.state(BANK), tmp_path, lambda *told: None,
        MatchReport(1, 1), {},
    )  # fmt: skip
    with pytest.raises(JobError, match="'moddel:m' is not one of a vertical job"):
        do("moddel:m", who)
