"""Questions from Python: what is asked, and what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedcore
from fedcore.analytics import query_json
from fedcore.analytics.query import Query
from fedcore.asking import ask, job_of
from fedcore.engines.run import Run
from fedcore.errors import JobError, PolicyRefused
from fedcore.jobs.analytics import AnalyticsJob
from fedcore.jobs.asks import Question
from fedcore.jobs.load import load_federation, load_job
from fedcore.jobs.show import as_yaml
from tests.fedcore.coordinator.answered_result import a_refusal, a_result, an_answer, write_run
from tests.sites import write_federation, write_site

QUERY = Query("study").where("age > 40").group_by("sex").count().mean("age")


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three sites with 30 rows each."""
    monkeypatch.chdir(tmp_path)
    for place in range(3):
        rows = {"sex": 1 + np.arange(30) % 2, "age": 35.0 + np.arange(30)}
        file = write_site(tmp_path, f"site-{place}", rows, rule="{jobs: [analytics], data: any}")
        file.write_text(file.read_text().replace(".parquet}", ".parquet, levels: {sex: [1, 2]}}"))
    return write_federation(tmp_path, [f"site-{place}" for place in range(3)])


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[AnalyticsJob]:
    """The jobs that would run; each gets a made-up answer."""
    jobs: list[AnalyticsJob] = []

    def run(job: AnalyticsJob, federation: Path, **options: Any) -> Run:
        jobs.append(job)
        return Run(write_run(tmp_path / f"made-{len(jobs)}", a_result({job.name: an_answer()})))

    monkeypatch.setattr("fedcore.engines.run.run", run)
    return jobs


def test_a_query_travels_in_the_job_as_it_is(federation) -> None:
    job = job_of(QUERY, load_federation(federation))
    asked = job.ask["ask"]
    assert asked.kind == "sql" and query_json.read(asked.asked) == QUERY
    file = Path("job.yaml")
    file.write_text(as_yaml(job))
    assert load_job(file) == job and query_json.read(load_job(file).ask["ask"].asked) == QUERY


def test_a_question_is_asked_once_and_only_when_its_answer_is_wanted(federation, runs) -> None:
    asking = QUERY.on(federation)
    assert runs == []
    assert asking.table().heads == ("sex", "count(*)", "mean(age)")
    assert asking.value("count(*)", 1) == 138
    assert repr(asking.value("count(*)", 2)) == "suppressed"
    assert "<td>suppressed</td>" in asking._repr_html_()
    assert len(runs) == 1


def test_sql_and_settings_reach_the_job(federation, runs) -> None:
    asked = fedcore.ask(
        "SELECT count(*) FROM study", federation, epsilon=0.5, mode="local", secure_sum=False, name="n"
    )
    assert asked.answer.name == "n"
    noise = runs[0].protection.differential_privacy
    assert noise is not None and (noise.epsilon, noise.mode) == (0.5, "local") and not runs[0].protection.on


@pytest.mark.parametrize(
    ("question", "settings", "said"),
    [
        ("SELECT * FROM study", {}, "it would show rows"),
        ("SELECT count(*) FROM studi", {}, 'did you mean "study"'),
        (Query("studi").count(), {}, 'did you mean "study"'),
        (17, {}, "is a int; allowed: SQL, or a Query"),
        (QUERY, {"mode": "local"}, "mode: of differential privacy, which needs epsilon"),
        (QUERY, {"epsilon": 1, "mdoe": "local"}, "mdoe"),
        (
            QUERY,
            {"epsilon": 1, "secure_sum": False, "mode": "central"},
            "mode central adds noise to a protected sum",
        ),
        (QUERY, {"participants": ["a", "a", "b"]}, "a name stands twice"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_starts(
    federation, runs, question, settings, said
) -> None:
    with pytest.raises(JobError) as raised:
        ask(question, federation, **settings)
    assert said in raised.value.message
    assert runs == []


def test_a_question_says_one_thing_in_one_way() -> None:
    query = QUERY.to_json()
    assert Question.model_validate({"query": query}).asked == query
    for wrong in ({"query": query, "sql": "SELECT 1"}, {"query": query, "totals": True}, {}):
        with pytest.raises(ValueError, match=r"asks one thing|totals is for sql"):
            Question.model_validate(wrong)


def test_a_run_gives_its_answers_by_name(tmp_path) -> None:
    run = Run(
        write_run(
            tmp_path / "run", a_result({"by_sex": an_answer(), "hazard": a_refusal()}, status="partial")
        )
    )
    assert run.answers["by_sex"].table().value("mean(age)", 1) == pytest.approx(63.34057971)
    assert [run.answers["hazard"].status, run.answers["by_sex"].suppressed] == ["refused", 2]
    with pytest.raises(PolicyRefused, match="statistic cox"):
        run.answers["hazard"].table()


def test_a_federation_answers_a_query_as_the_pooled_rows_do(federation) -> None:
    age = np.tile(35.0 + np.arange(30), 3)
    sex = np.tile(1 + np.arange(30) % 2, 3)
    asking = QUERY.on(federation, folder="out")
    for value in (1, 2):
        taken = age[(sex == value) & (age > 40)]
        assert asking.value("count(*)", value) == len(taken)
        assert asking.value("mean(age)", value) == pytest.approx(taken.mean(), rel=1e-10)
    assert asking.answer.summed == 3
    assert asking.run.folder == Path("out") and asking.run.report.path.is_file()


def test_a_job_made_in_python_runs_like_its_file(federation) -> None:
    job = job_of("SELECT sex, count(*) FROM study GROUP BY sex")
    first = fedcore.run(job, federation, folder="first")
    again = fedcore.run("first/job.yaml", federation, folder="again")
    assert first.answers["ask"].tables == again.answers["ask"].tables
