"""The benchmark of secure aggregation: a toy run of each part, and the side that fedcore does not have."""

from __future__ import annotations

import json

import numpy as np
import psutil
import pytest

from benchmarks import secure_encryption, secure_round
from benchmarks.common import Report
from benchmarks.secure_aggregation import PARTS, main
from benchmarks.sides import secagg_coded as coded
from benchmarks.sides.secagg_cohort import Cohort
from crypto.secagg.graph import Assumptions

P = coded.PRIME


@pytest.fixture
def toy(monkeypatch, capsys):
    """Runs some parts at the size of a toy."""
    # A benchmark keeps itself to its cores; the tests go on after it.
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda *_: [0, 1])
    monkeypatch.setattr(secure_encryption, "PHE_SAMPLE", 2)
    monkeypatch.setattr(secure_round, "ROUNDS", 2)

    def run(*parts: str) -> Report:
        size = ["--participants", "12", "--parameters", "400", "--dropout", "0.1", "--repeats", "1"]
        report = main([*size, "--parts", *parts, "--json"])
        assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report.as_dict()))
        return report

    return run


TARGETS = {
    "masks": 6,
    "growth": 1,
    "memory": 2,
    "ckks": 4,
    "threshold": 3,
    "paillier": 2,
    "round": 1,
    "lightsecagg": 0,
}


def test_every_part_has_its_targets() -> None:
    assert set(TARGETS) == set(PARTS)


@pytest.mark.parametrize("part", [part for part in PARTS if part not in ("round", "paillier")])
def test_a_part_gives_figures_and_all_its_targets(part, toy) -> None:
    report = toy(part)
    assert report.figures and not report.absent
    assert len(report.targets) == TARGETS[part]
    assert all(target.value is not None for target in report.targets)
    assert all(row.get("exact", "yes") == "yes" for row in report.figures)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["round", "paillier"])
def test_a_long_part_gives_figures_and_all_its_targets(part, toy) -> None:
    report = toy(part)
    assert len(report.figures) == 2 and len(report.targets) == TARGETS[part]
    assert all(target.value is not None for target in report.targets)


def test_what_is_compared_with_tenseal_is_measured_once(toy) -> None:
    report = toy("ckks", "threshold")
    sides = [(row["part"], row["side"]) for row in report.figures]
    assert len(sides) == len(set(sides)) == 4
    assert report.figures[1]["client ms"] == report.figures[3]["client ms"]


@pytest.mark.parametrize("words", [["--dropout", "0.5"], ["--participants", "2"], ["--parts", "none"]])
def test_wrong_options_are_refused(words, capsys) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert "error" in capsys.readouterr().err


# ---- a cohort in one process -----------------------------------------------------------------------------------


@pytest.mark.parametrize("adversary", ["active", "curious"])
def test_a_round_is_told_as_exact_only_when_its_sum_is(adversary, monkeypatch) -> None:
    cohort = Cohort(8, Assumptions(0.05, 0.2, adversary))
    values = np.linspace(-3, 3, 301, dtype=np.float32)
    right = cohort.round(1, 1, values)
    assert right.exact and set(cohort.met.clients) == set(cohort.names)
    assert right.up > 4 * len(values) > right.down > 0
    start = cohort.coordinator.start

    def wrong(number: int):
        round_ = start(number)
        finish = round_.finish
        monkeypatch.setattr(round_, "finish", lambda: finish() ^ (np.arange(302, dtype=np.uint32) == 7))
        return round_

    monkeypatch.setattr(cohort.coordinator, "start", wrong)
    assert not cohort.round(2, 1, values).exact


def test_the_masks_in_a_sum_are_counted() -> None:
    cohort = Cohort(5, Assumptions(0.0, 0.2))
    # A complete graph: one mask of each of four that stay, and four between them and the one that does not.
    assert cohort.masks(1) == 4 + 4


# ---- LightSecAgg -----------------------------------------------------------------------------------------------


def value_at(rows, point: int) -> list[int]:
    return [sum(int(c) * pow(point, k, P) for k, c in enumerate(column)) % P for column in rows.T]


@pytest.mark.parametrize(("participants", "needed"), [(5, 4), (8, 8), (13, 9)])
def test_the_transform_gives_values_at_the_points(participants, needed) -> None:
    code = coded.Code(participants, 1, needed)
    rows = np.random.default_rng(1).integers(0, P, (needed, 3), dtype=np.uint32)
    rows[:, 0] = P - 1
    out = np.empty((code.order, 3), np.uint32)
    coded._transform(rows, *coded._twiddles(code.order), out)
    points = code.points()
    assert len(set(points)) == participants
    for j, point in enumerate(points):
        assert out[j].tolist() == value_at(rows, point)


def test_coefficients_come_back_from_any_points() -> None:
    code, random = coded.Code(11, 2, 7), np.random.default_rng(2)
    rows = random.integers(0, P, (7, 1030), dtype=np.uint32)
    rows[:, 0] = P - 1
    at = random.permutation(code.points())[:7]
    matrix = coded._interpolation(np.array(at, np.uint64), 5)
    values = np.zeros((matrix.shape[1], rows.shape[1]), np.uint32)
    values[:7] = [value_at(rows, int(point)) for point in at]
    found = np.empty((5, rows.shape[1]), np.uint32)
    coded._product(matrix, values, found)
    assert np.array_equal(found, rows[:5])


def test_words_are_spread_over_the_field() -> None:
    words = np.array([0, 2**64 - 1, 2**63, 12345678 << 40], dtype=np.uint64)
    out = np.empty(4, np.uint32)
    coded._to_field(words, out)
    assert out.tolist() == [(int(word) * P) >> 64 for word in words]


@pytest.mark.parametrize("dropped", [0, 1, 3])
def test_the_sum_of_a_coded_round_is_that_of_the_vectors(dropped) -> None:
    values = np.linspace(-3, 3, 301, dtype=np.float32)
    assert coded.one_round(coded.Code(10, 1, 10 - dropped), dropped, values).exact
