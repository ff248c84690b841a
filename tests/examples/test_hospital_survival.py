"""The survival example: who has which rows, answers beside the pooled ones, suppression, refusals, noise."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from statsmodels.datasets import china_smoking

from examples.hospital_survival import run as example
from examples.hospital_survival.reference import Compared
from examples.hospital_survival.run import BUDGET, REFUSALS, Ended, taking_part
from examples.hospital_survival.sites import BREAST, TSS_REGIONS, breast, cities, lung, pooled
from examples.notebooks.execute import execute
from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.coordinator.record_analytics import answers_of
from fedcore.errors import BudgetExhausted
from fedcore.jobs.load import load_federation, load_job
from fedcore.participant.budgets import site_ledger
from fedcore.participant.data import read_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("survival")


@pytest.fixture(scope="module")
def together(folder: Path) -> Ended:
    """The questions under secure sums, but for the one that takes most rounds."""
    job = load_job(ROOT / "configs" / "jobs" / "lung_survival.yaml")
    return example.sums(folder / "sums", "embedded", [name for name in job.ask if name != "hazard_pooled"])


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
        if each.end:
            assert (each.answer <= each.pooled) is (each.end == "low") or each.answer == each.pooled, each
        else:
            assert each.answer == pytest.approx(each.pooled, rel=1e-6 if each.model else 1e-8), each
    assert sum(each.model for each in together.compared) == 2 * (4 + 3)


def test_quantiles_lie_in_intervals_of_no_fewer_rows_than_the_least_cell(together: Ended) -> None:
    times = pooled(lung())[0]["time"]
    found = [each for each in of(together, "follow_up") if each.answer is not SUPPRESSED]
    assert len(found) == 6
    for low, high in zip(found[::2], found[1::2], strict=True):
        assert (low.end, high.end) == ("low", "high") and low.pooled == high.pooled
        assert low.answer < low.pooled <= high.answer <= low.answer + 1100 / 16
        assert ((times > low.answer) & (times <= high.answer)).sum() >= 5


def test_two_bins_of_the_sum_are_suppressed_and_nothing_else(together: Ended) -> None:
    ages = {each.what: each for each in of(together, "ages")}
    assert ages["rows 1"].pooled == 2 and ages["rows 6"].pooled == 4
    everywhere = [each for each in together.compared if each.answer is SUPPRESSED]
    assert everywhere == [ages["rows 1"], ages["rows 6"]]


def test_a_suppressed_cell_stays_one_in_every_file(together: Ended) -> None:
    answers = together.folder / "answers"
    assert "suppressed" in (answers / "ages.csv").read_text()
    (table,) = json.loads((answers / "ages.json").read_text())
    assert table["rows"][0]["rows"] == {"suppressed": True}


def test_curves_are_drawn_beside_the_run(together: Ended) -> None:
    picture = (together.folder.parent / "survival-curves.svg").read_text()
    assert picture.startswith("<svg") and "Kaplan-Meier" in picture


def test_without_secure_sums_few_hospitals_can_answer_and_small_cells_are_kept_back(folder: Path) -> None:
    ended = example.alone(folder / "alone", "embedded")
    assert ended.holds
    assert not ended.answers["survival"].answered, "single rows stand out in a curve"
    assert not ended.answers["death"].answered, "three hospitals have rows enough for four parameters"
    hazard = ended.answers["hazard"]
    # Three parameters, five rows for each of them; a patient without a value in a column is not in it.
    large = {name for name, rows in lung().items() if sum(row["ph.ecog"] != "" for row in rows) >= 15}
    assert taking_part(hazard) == large and not hazard.protection
    assert not ended.answers["by_sex"].answered, "a median closes in on single rows"
    deaths = example.alone(folder / "deaths", "embedded", ["deaths"])
    assert SUPPRESSED in {each.answer for each in of(deaths, "deaths")}
    assert all(each.answer is not SUPPRESSED for each in of(ended, "hazard"))


def test_hospitals_that_refuse_are_named_and_the_answer_is_that_of_the_others(folder: Path) -> None:
    ended = example.refusals(folder / "refusals", "embedded")
    assert ended.holds
    assert set(ended.left_out) == {"hospital-22", "hospital-33"}
    assert "'treatment'" in ended.left_out["hospital-22"] and "at least 30" in ended.left_out["hospital-33"]
    first, hazard = ended.answers["by_sex"], ended.answers["hazard"]
    assert {*lung()} - taking_part(first) == {*ended.left_out}
    assert {*lung()} - taking_part(hazard) == {*REFUSALS} and hazard.summed == 15
    rows, _ = pooled(lung(), list(ended.left_out))
    counts = {each.what: each.answer for each in of(ended, "by_sex")}
    assert counts["count(*) 1"] + counts["count(*) 2"] == len(rows["time"]) == 227 - 17 - 2


def test_a_question_that_would_tell_of_few_by_its_difference_is_refused(folder: Path) -> None:
    # Counts by fitness leave out whose fitness is not known, whom counts by sex have.
    said = next((folder / "refusals").glob("run-*/result.json")).read_text()
    fitness = answers_of(json.loads(said))["fitness"]
    assert fitness.status == "refused" and "differences of 5 rows or more" in fitness.reason


def test_noise_is_charged_to_every_hospitals_ledger_until_the_budget_is_spent(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUDGET, "epsilon", 1)
    ended = example.noise(folder / "noise", "embedded")
    assert all(answer.answered for answer in ended.answers.values())
    told = [answer.noise for answer in ended.answers.values()]
    assert math.fsum(each.epsilon for each in told if each and each.epsilon) == pytest.approx(1)
    federation = load_federation(folder / "noise" / "federation.yaml")
    for participant in federation.participants:
        ledger = site_ledger(participant, "lung")
        assert ledger is not None and ledger.account().spent.amount == 1, participant.name
    rows = ended.answers["deaths"].table()
    # The noise of each of the four counts has a standard error below 30: 8 of them are passed in less than one of 1e12.
    assert abs(rows.value("all", "all") - 227) < 4 * 8 * 30
    assert "epsilon" in json.loads((ended.folder / "result.json").read_text())["answers"]["ages"]["privacy"]
    with pytest.raises(BudgetExhausted, match="remaining epsilon 0"):
        example.noise(folder / "noise", "embedded", ["deaths"])


@pytest.mark.slow
def test_the_command_asks_all_questions_and_ends_well_where_every_number_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.main(["sums", "--folder", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "hazard_pooled" in said and "no answer" not in said
    assert (tmp_path / "sums" / "survival-curves.svg").exists()


def test_a_number_that_is_not_what_was_promised_is_noticed() -> None:
    for answer, end, model, holds in (
        (1.0, "", False, True),
        (1.0 + 1e-7, "", False, False),
        (1.0 + 1e-7, "", True, True),
        (1.0 + 1e-5, "", True, False),
        (0.5, "low", False, True),
        (0.5, "high", False, False),
        (SUPPRESSED, "", False, True),
    ):
        assert Compared("q", "what", answer, 1.0, end, model).holds is holds


def test_the_command_prints_odds_over_cities_beside_those_of_statsmodels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.main(["cities", "--folder", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "odds ratio" in said and said.count("2.17448") == 2
    (result,) = tmp_path.glob("cities/run-1/result.json")
    odds = answers_of(json.loads(result.read_text()))["odds"]
    assert odds.value("odds ratio") == pytest.approx(2.1744819199793697, rel=1e-10) and odds.summed == 8
    with pytest.raises(SystemExit):
        example.main(["breast", "--folder", str(tmp_path)])


@pytest.mark.system
@pytest.mark.slow
def test_cities_with_a_process_each_answer_the_same(tmp_path: Path) -> None:
    ended = example.smoking(tmp_path, "deployment", ["odds"])
    assert ended.holds and len(ended.compared) == 4 and ended.answers["odds"].summed == 8
    assert (tmp_path / "keys" / "beijing.key").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_the_notebook_shows_what_is_suppressed_refused_and_charged(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "examples" / "notebooks" / "04-hospital-survival.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    execute(notebook, tmp_path, timeout=240)
    said = "\n".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "[suppressed, 18, 63, 88, 52, suppressed]" in said and "all as promised: True" in said
    assert "hospital-33 answers nothing" in said and "hazard: 15 hospitals, without hospital-13" in said
    assert "differences of 5 rows or more" in said and "spent: 1\n" in said
    assert list(tmp_path.iterdir()) == []


def test_all_jobs_of_the_example_are_sound() -> None:
    here = ROOT / "examples" / "hospital_survival"
    for file in (*here.glob("*.yaml"), ROOT / "configs" / "jobs" / "lung_survival.yaml"):
        assert load_job(file).kind == "analytics"
