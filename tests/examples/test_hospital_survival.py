"""The survival example: who has which rows, answers beside the pooled ones, suppression, refusals, noise."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from statsmodels.datasets import china_smoking

from examples.hospital_survival import run as example
from examples.hospital_survival.reference import Compared
from examples.hospital_survival.run import BUDGET, REFUSALS, Ended
from examples.hospital_survival.sites import BREAST, TSS_REGIONS, breast, cities, lung, pooled
from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.jobs.load import load_federation, load_job
from fedcore.participant.budgets import site_ledger
from fedcore.participant.data import read_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("survival")


@pytest.fixture(scope="module")
def together(folder: Path) -> Ended:
    """All questions under secure sums."""
    return example.sums(folder / "sums", "embedded")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Ended:
    """The same questions, each hospital's part seen."""
    return example.alone(folder / "alone", "embedded")


def of(ended: Ended, question: str) -> list[Compared]:
    found = [each for each in ended.compared if each.question == question]
    assert found, f"nothing of {question} was compared"
    return found


# ---- who has which rows --------------------------------------------------------------------------------------------


def test_eighteen_hospitals_have_227_patients_and_most_fewer_than_twenty() -> None:
    sizes = {name: len(rows) for name, rows in lung().items()}
    assert len(sizes) == 18 and sum(sizes.values()) == 227
    assert sum(size < 20 for size in sizes.values()) == 15
    assert (sizes["hospital-01"], sizes["hospital-33"]) == (36, 2)
    assert all(float(row["inst"]) == int(name[-2:]) for name, rows in lung().items() for row in rows)


def test_the_cities_are_those_of_statsmodels() -> None:
    for (name, rows), expected in zip(
        cities().items(), china_smoking.load_pandas().data.to_numpy(), strict=True
    ):
        counts = Counter((row["smokes"], row["cancer"]) for row in rows)
        assert [counts[pair] for pair in (("1", "1"), ("1", "0"), ("0", "1"), ("0", "0"))] == list(
            expected
        ), name


def test_patients_of_tcga_are_dealt_by_the_institution_in_their_barcode(tmp_path: Path) -> None:
    with (tmp_path / "brca.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["pid", *BREAST.values()])
        writer.writeheader()
        for code in ("BH", "D8", "PL"):
            writer.writerow({"pid": f"TCGA-{code}-0001", **dict.fromkeys(BREAST.values(), "1")})
    found = {name: len(rows) for name, rows in breast(tmp_path / "brca.csv").items()}
    assert found == {**dict.fromkeys(TSS_REGIONS, 0), "northeast": 1, "europe": 1}
    codes = [code for each in TSS_REGIONS.values() for code in each]
    assert len(codes) == len(set(codes))


def test_the_ready_federation_has_the_rows_of_the_hospitals_and_no_other() -> None:
    federation = load_federation(ROOT / "configs" / "federations" / "eighteen_hospitals.yaml")
    for participant, rows in zip(federation.participants, lung().values(), strict=True):
        table = read_table(participant.catalogue["lung"], ["inst", "time"]).to_pylist()
        expected = [{"inst": int(row["inst"]), "time": int(row["time"])} for row in rows]
        assert table == expected, participant.name


def test_a_hospitals_folder_holds_its_own_rows_only(together: Ended) -> None:
    for name, rows in lung().items():
        with (together.folder.parent / "data" / f"{name}.csv").open(newline="") as file:
            assert list(csv.DictReader(file)) == rows


# ---- answers -------------------------------------------------------------------------------------------------------


def test_every_question_under_secure_sums_has_an_answer_of_all_hospitals(together: Ended) -> None:
    assert list(together.answers) == list(together.job.ask) and not together.left_out
    for name, answer in together.answers.items():
        assert answer.answered and len(answer.sites) == answer.summed == 18, name
        assert answer.protection["protocol"] == "secagg+" and not answer.left_out


def test_statistics_equal_those_of_the_pooled_rows_to_1e_8_and_models_to_1e_6(together: Ended) -> None:
    assert {each.question for each in together.compared} == set(together.job.ask)
    for each in together.compared:
        if each.answer is SUPPRESSED:
            continue
        if each.width:
            assert abs(each.answer - each.pooled) <= each.width, each
        else:
            assert each.answer == pytest.approx(each.pooled, rel=1e-6 if each.model else 1e-8), each
    assert sum(each.model for each in together.compared) == 2 * (4 + 3 + 3)


def test_what_suppression_leaves_of_the_sum_is_what_one_rare_value_costs(together: Ended) -> None:
    ages = {each.what: each for each in of(together, "ages")}
    assert ages["rows 1"].pooled < 5 and ages["rows 1"].answer is SUPPRESSED
    assert ages["rows 3"].answer == 63
    kept = [each for each in of(together, "fitness") if each.answer is SUPPRESSED]
    # The cell of one patient, another of its row that would give it away, and what is reckoned with both.
    assert min(each.pooled for each in kept) == 1 and len(kept) >= 2
    everywhere = [each for each in together.compared if each.answer is SUPPRESSED]
    assert {each.question for each in everywhere} == {"ages", "fitness"}


def test_a_suppressed_cell_stays_one_in_every_file(together: Ended) -> None:
    answers = together.folder / "answers"
    assert "suppressed" in (answers / "ages.csv").read_text()
    (table,) = json.loads((answers / "ages.json").read_text())
    assert table["rows"][0]["rows"] == {"suppressed": True}


def test_curves_are_drawn_beside_the_run(together: Ended) -> None:
    picture = (together.folder.parent / "survival-curves.svg").read_text()
    assert picture.startswith("<svg") and "Kaplan-Meier" in picture


def test_without_secure_sums_small_cells_are_kept_back_and_what_is_told_still_holds(
    together: Ended, alone: Ended
) -> None:
    assert alone.holds
    kept = [each for each in alone.compared if each.answer is SUPPRESSED]
    assert len(kept) > sum(each.answer is SUPPRESSED for each in together.compared)
    for name in ("survival", "hazard_pooled"):
        assert not alone.answers[name].answered, f"single rows stand out in {name}"
    deaths = alone.answers["deaths"]
    small = {name for name, rows in lung().items() if len(rows) < 5}
    assert small == {party for party, _ in deaths.left_out}
    assert small.isdisjoint(deaths.sites) and not deaths.protection


def test_hospitals_that_refuse_are_named_and_the_answer_is_that_of_the_others(folder: Path) -> None:
    ended = example.refusals(folder / "refusals", "embedded")
    assert ended.holds and ended.compared
    assert set(ended.left_out) == {"hospital-22", "hospital-33"}
    assert "min" in ended.left_out["hospital-33"] or "30" in ended.left_out["hospital-33"]
    hazard = ended.answers["hazard"]
    assert {party for party, _ in hazard.left_out} == {"hospital-10", "hospital-13"}
    assert set(hazard.sites).isdisjoint(REFUSALS) and len(hazard.sites) == 14
    rows, _ = pooled(lung(), list(REFUSALS))
    assert not np.isnan(rows["time"]).any() and len(rows["time"]) == 227 - sum(
        len(lung()[name]) for name in REFUSALS
    )


def test_noise_is_charged_to_every_hospitals_ledger_until_the_budget_is_spent(folder: Path) -> None:
    ended = example.noise(folder / "noise", "embedded")
    assert all(answer.answered for answer in ended.answers.values())
    told = [answer.noise for answer in ended.answers.values()]
    assert math.fsum(each.epsilon for each in told if each and each.epsilon) == pytest.approx(1)
    federation = load_federation(folder / "noise" / "federation.yaml")
    for participant in federation.participants:
        ledger = site_ledger(participant, "lung")
        assert ledger is not None and ledger.account().spent.amount == 1, participant.name
    rows = ended.answers["deaths"].table()
    # Laplace or Gaussian of a third of epsilon 1: off by more than 200 with a probability far below 1e-9.
    assert abs(rows.value("all", "all") - 227) < 400
    assert BUDGET["epsilon"] == 4


def test_odds_over_cities_are_those_of_statsmodels(folder: Path) -> None:
    ended = example.smoking(folder / "cities", "embedded")
    assert ended.holds and not any(each.answer is SUPPRESSED for each in ended.compared)
    (odds,) = [each for each in of(ended, "odds") if each.what == "odds ratio"]
    assert odds.answer == pytest.approx(2.1744819199793697, rel=1e-10)


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main(["cities", "--folder", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "odds ratio" in said and "2.17448192" in said and "sites together" in said
    with pytest.raises(SystemExit):
        example.main(["breast", "--folder", str(tmp_path)])


def test_all_jobs_of_the_example_are_sound() -> None:
    here = ROOT / "examples" / "hospital_survival"
    for file in (*here.glob("*.yaml"), ROOT / "configs" / "jobs" / "lung_survival.yaml"):
        assert load_job(file).kind == "analytics"
