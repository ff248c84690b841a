"""`fedcore sql` as a person and a machine use it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.cli.main import run as fedcore
from fedcore.engines.run import Run
from fedcore.errors import DataError, JobError, PolicyRefused
from fedcore.jobs.analytics import AnalyticsJob
from tests.fedcore.coordinator.answered_result import a_result, an_answer, write_run
from tests.sites import write_federation, write_site

RULE = "{jobs: [analytics], data: any}"
ASKED = "SELECT sex, count(*), avg(age) FROM study GROUP BY sex"


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Three sites with 20 rows each, in the folder where the test runs; all rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    all_: dict[str, list[Any]] = {"sex": [], "age": []}
    for place in range(3):
        rng = np.random.default_rng(place)
        own = {"sex": 1 + np.arange(20) % 2, "age": rng.integers(30, 80, 20)}
        write_site(tmp_path, f"site-{place}", own, rule=RULE)
        file = tmp_path / f"site-{place}.yaml"
        file.write_text(file.read_text().replace(".parquet}", ".parquet, levels: {sex: [1, 2]}}"))
        for name in all_:
            all_[name] += own[name].tolist()
    write_federation(tmp_path, [f"site-{place}" for place in range(3)])
    return {name: np.array(values) for name, values in all_.items()}


@pytest.fixture
def asked(
    rows: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> list[tuple[AnalyticsJob, dict[str, Any]]]:
    """The jobs that would run; each gets a made-up answer."""
    jobs: list[tuple[AnalyticsJob, dict[str, Any]]] = []

    def run(job: AnalyticsJob, federation: Path, **options: Any) -> Run:
        jobs.append((job, options))
        return Run(write_run(tmp_path / "made", a_result({"sql": an_answer()})))

    monkeypatch.setattr("fedcore.engines.run.run", run)
    return jobs


def sql(text: str = ASKED, *options: str) -> int:
    return fedcore(["sql", text, "--federation", "federation.yaml", *options])


def test_the_table_is_printed_with_what_was_suppressed(asked, capsys) -> None:
    assert sql() == 0
    out = capsys.readouterr().out
    assert "138" in out and "two cells suppressed" in out and "secure sum of 4 of 5" in out
    assert "made/report.html" in out.replace("\n", "")


def test_the_job_asks_the_table_of_from_under_the_default_protection(asked) -> None:
    assert sql() == 0
    job, options = asked[0]
    assert (job.data, job.name, job.ask["sql"].sql) == ("study", "sql", ASKED)
    assert job.protection.on and job.protection.differential_privacy is None
    assert job.participants.min == 3 and options["folder"] is None


def test_options_reach_the_job(asked) -> None:
    words = ["--totals", "--epsilon", "0.5", "--delta", "1e-7", "--purpose", "audit", "--asker", "ann"]
    assert sql(ASKED, *words, "--min", "4", "--folder", "f", "--engine", "simulation") == 0
    job, options = asked[0]
    noise = job.protection.differential_privacy
    assert noise is not None and (noise.epsilon, noise.delta, noise.mode) == (0.5, 1e-7, "central")
    assert (job.purpose, job.asker, job.participants.min) == ("audit", "ann", 4)
    assert job.ask["sql"].totals
    assert (options["folder"], options["engine"]) == (Path("f"), "simulation")


def test_noise_without_a_secure_sum_is_added_at_each_site(asked) -> None:
    assert sql(ASKED, "--no-secure-sum", "--epsilon", "1") == 0
    job = asked[0][0]
    assert not job.protection.on
    assert (
        job.protection.differential_privacy is not None
        and job.protection.differential_privacy.mode == "local"
    )


def test_a_name_in_another_case_is_that_of_the_catalogue(asked) -> None:
    assert sql("SELECT count(*) FROM STUDY") == 0
    assert asked[0][0].data == "study"


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("SELEC 1", [], "no SQL"),
        ("SELECT * FROM study", [], "it would show rows"),
        ("SELECT count(*) FROM study JOIN b ON study.x = b.x", [], "psi"),
        ("DROP TABLE study", [], "a question only reads"),
        ("SELECT count(*) FROM study; SELECT 1", [], "2 statements"),
        ("SELECT maen(age) FROM study", [], "maen is not answered over sites"),
        ("SELECT count(*) FROM studi", [], 'did you mean "study"?'),
        ("SELECT count(*)", [], "no FROM"),
        (ASKED, ["--epsilon", "0"], "greater than 0"),
        (ASKED, ["--epsilon", "inf"], "finite"),
        (ASKED, ["--epsilon", "-1"], "greater than 0"),
        (ASKED, ["--epsilon", "1", "--delta", "1"], "less than 1"),
        (ASKED, ["--delta", "0.1"], "delta goes with epsilon"),
        (ASKED, ["--min", "0"], "greater than or equal to 1"),
        (ASKED, ["--purpose", "a b"], "a name uses letters"),
        (ASKED, ["--engine", "embeded"], 'did you mean "embedded"?'),
        (ASKED, ["--csv", "no/such/folder.csv"], "there is no folder"),
        (ASKED, ["--csv", "-", "--json"], "choose one"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_starts(asked, capsys, text, words, said) -> None:
    assert sql(text, *words) == JobError.exit_code
    shown = capsys.readouterr()
    assert said in shown.err + shown.out
    assert asked == [] and not Path("runs").exists()


def test_a_table_can_be_piped(asked, capsys) -> None:
    assert sql(ASKED, "--csv", "-") == 0
    lines = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert lines == [
        ["sex", "count(*)", "mean(age)"],
        ["1", "138", "63.34057971"],
        ["2", "suppressed", "suppressed"],
    ]


def test_a_table_can_be_written_to_a_file(asked, capsys) -> None:
    assert sql(ASKED, "--csv", "out.csv") == 0
    assert Path("out.csv").read_text().startswith("sex,count(*),mean(age)")
    assert "138" in capsys.readouterr().out


def test_machines_get_the_answer_with_its_folder(asked, capsys) -> None:
    assert sql(ASKED, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folder"].endswith("made") and found["status"] == "answered"
    assert found["tables"][0]["rows"][1]["count(*)"] == {"suppressed": True}


def test_a_federation_answers_as_the_pooled_rows_do(rows, capsys) -> None:
    assert sql(ASKED, "--json", "--folder", "out") == 0
    found = json.loads(capsys.readouterr().out)
    table = Run(Path("out")).answers["sql"].table()
    assert [row[0] for row in table.rows] == [1, 2]
    for sex in (1, 2):
        of = rows["sex"] == sex
        assert table.value("count(*)", sex) == of.sum()
        assert table.value("mean(age)", sex) == pytest.approx(rows["age"][of].mean(), rel=1e-10)
    assert found["summed"] == 3 and Path("out/report.html").is_file() and Path("out/job.yaml").is_file()


def test_a_site_that_does_not_allow_it_refuses_with_its_exit_code(rows, capsys) -> None:
    assert sql(ASKED, "--purpose", "marketing", "--folder", "out") == 0
    for place in range(3):
        file = Path(f"site-{place}.yaml")
        file.write_text(file.read_text().replace("data: any", "data: any, purpose: research"))
    assert sql(ASKED, "--purpose", "marketing", "--folder", "out-2", "--json") == PolicyRefused.exit_code
    assert "purpose" in capsys.readouterr().out


def test_an_unknown_column_is_answered_with_the_nearest(rows, capsys) -> None:
    code = sql("SELECT avg(aeg) FROM study", "--folder", "out")
    assert code in (JobError.exit_code, DataError.exit_code)
    assert 'did you mean "age"?' in capsys.readouterr().err
