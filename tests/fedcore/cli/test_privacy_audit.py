"""`fedcore privacy audit`: a training that remembers is found out, one with noise is not; planted questions are found."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from fedcore.analytics import questions
from fedcore.analytics.question import Agreed
from fedcore.analytics.source import opened
from fedcore.cli.main import run
from fedcore.cli.privacy_audit import claimed
from fedcore.jobs import asks
from fedcore.jobs.job import TrainJob, parse_job
from fedcore.learning.private import step

SITES = ("north", "south", "west")
COLUMNS = ("a", "b", *(f"c{at}" for at in range(98)))


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    """Three sites whose target is decided by two of a hundred columns, so that a model can remember rows by the others."""
    chance = random.Random(5)
    for site in SITES:
        with (tmp_path / f"{site}.csv").open("w") as file:
            out = csv.writer(file)
            out.writerow(["patient", *COLUMNS, "ill"])
            for at in range(300 if site == "south" else 20):
                x = [round(chance.gauss(0, 1), 4) for _ in COLUMNS]
                out.writerow([at, *x, int(x[0] + x[1] > 0)])
        (tmp_path / f"{site}.yaml").write_text(
            json.dumps(
                {
                    "name": site,
                    "catalogue": {
                        "scans": {"connector": "csv", "path": f"{site}.csv", "row_id": "patient"},
                        "other": {"connector": "csv", "path": f"{site}.csv"},
                    },
                    "policy": {
                        "rules": [
                            {"jobs": ["train", "analytics"], "data": "scans"},
                            {"jobs": ["train"], "data": "other"},
                        ],
                        # Of which an audit takes nothing.
                        "privacy": {"scans": {"epsilon": 0.001, "required_for": ["train"]}},
                    },
                }
            )
        )
    (tmp_path / "all.yaml").write_text(
        json.dumps(
            {"name": "three", "engine": "embedded", "participants": [f"{site}.yaml" for site in SITES]}
        )
    )
    return tmp_path


def job(folder: Path, **given: Any) -> Path:
    told = {
        "kind": "train",
        "name": "scans",
        "data": "scans",
        "task": {
            "use": "tabular-classifier",
            "target": "ill",
            "model": "mlp",
            "hidden": [32],
            "standardize": "none",
        },
        "rounds": 2,
        "local": {"epochs": 8, "batch_size": 32, "lr": 0.02, "optimizer": "adam"},
        **given,
    }
    (folder / "job.yaml").write_text(json.dumps(told))
    return folder / "job.yaml"


def audited(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code = run(["privacy", "audit", *words, "--json"])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == 0, told
    return told


def test_a_training_that_remembers_its_rows_gives_a_bound_above_zero(
    hospitals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = job(hospitals, participants={"min": 1, "names": ["south"]})
    (hospitals / "south.yaml").write_text(
        (hospitals / "south.yaml").read_text().replace('"data": "scans"', '"data": "scans", "min_cohort": 1')
    )
    # Seeded throughout: canaries, coins, weights and batches.
    told = audited(capsys, str(alone), "-f", str(hospitals / "all.yaml"), "--canaries", "150", "--seed", "1")
    assert told["participant"] == "south" and told["canaries"] == 150 and told["claim"] is None
    assert told["epsilon"] > 0.5 and told["holds"] is None
    # No budget was opened or charged, and no run is left.
    assert not list(hospitals.glob("**/privacy")) and not (hospitals / "runs").exists()


@pytest.mark.slow
def test_a_training_with_noise_stays_below_its_claim(
    hospitals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # With noise for a whole client the canaries are coins. The bound passes the claim when 29 of 30 guesses are right, or
    # 53 of 60: by chance with probability below 1e-7.
    private = {"level": "client", "epsilon": 1.0, "delta": 1e-3, "mode": "local", "classes": [0, 1]}
    file = job(hospitals, protection={"differential_privacy": private}, evaluation={"federated": False})
    told = audited(
        capsys,
        str(file),
        "-f",
        str(hospitals / "all.yaml"),
        "--canaries",
        "60",
        "--participant",
        "south",
        "--rounds",
        "2",
    )
    assert told["claim"]["epsilon"] == 1.0 and told["delta"] == 1e-3 and told["holds"] is True


@pytest.mark.slow
def test_a_promise_to_each_row_holds_and_without_its_noise_it_does_not(
    hospitals: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # One site alone, so that nobody else's noise is in the model; many steps with a large clip, which remember rows.
    alone = job(
        hospitals,
        participants={"min": 1, "names": ["south"]},
        local={"epochs": 120, "batch_size": 300, "lr": 0.02, "optimizer": "adam", "validation": 0},
        evaluation={"federated": False},
        protection={
            "differential_privacy": {
                "level": "record",
                "epsilon": 1.5,
                "delta": 1e-6,
                "clip": 20.0,
                "classes": [0, 1],
            }
        },
    )
    (hospitals / "south.yaml").write_text(
        (hospitals / "south.yaml").read_text().replace('"data": "scans"', '"data": "scans", "min_cohort": 1')
    )
    asked = (str(alone), "-f", str(hospitals / "all.yaml"), "--canaries", "150", "--seed", "1")
    # The bound passes the claim when 36 of 37 guesses are right, or more of more; to coins that happens with probability below 1e-8.
    told = audited(capsys, *asked)
    assert told["claim"] == {"epsilon": 1.5, "delta": 1e-6, "words": "record-level, epsilon 1.5, delta 1e-06"}
    assert told["holds"] is True
    monkeypatch.setattr(step, "released", lambda values, deviation, over=1.0: [v / over for v in values])
    told = audited(capsys, *asked)
    assert told["epsilon"] > 1.5 and told["holds"] is False


def test_a_claim_about_a_client_that_is_there_or_not_is_doubled_for_one_of_its_rows() -> None:
    def asked(**privacy: Any) -> TrainJob:
        told = {
            "kind": "train",
            "name": "n",
            "data": "d",
            "task": {"use": "tabular-classifier", "target": "y", "standardize": "none"},
            "evaluation": {"federated": False},
            "protection": {
                "differential_privacy": {
                    "level": "client",
                    "epsilon": 2.0,
                    "delta": 1e-3,
                    "classes": (0, 1),
                    "mode": "local",
                }
                | privacy
            },
        }
        made = parse_job(told)
        assert isinstance(made, TrainJob)
        return made

    replaced, there = claimed(asked()), claimed(asked(neighbours="add-remove"))
    assert replaced is not None and (replaced.epsilon, replaced.delta) == (2.0, 1e-3)
    assert there is not None and there.epsilon == 4.0 and there.delta == pytest.approx(1e-3 * (1 + 7.389056))


def past_run(folder: Path, name: str, site: Path, where: str | None) -> None:
    source = opened("scans", site)
    told = {"histogram": {"column": "a", "edges": (-9.0, 9.0), **({"where": where} if where else {})}}
    question = questions.build(asks.Question.model_validate(told), Agreed("scans", source.columns))
    (folder / name).mkdir(parents=True)
    result = {"kind": "analytics", "answers": {"all": {"question": questions.to_json(question)}}}
    (folder / name / "result.json").write_text(json.dumps(result))


def test_past_questions_that_isolate_a_few_are_shown(
    hospitals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = sorted(
        float(row["b"]) for site in SITES for row in csv.DictReader((hospitals / f"{site}.csv").open())
    )
    runs = hospitals / "runs"
    past_run(runs, "one", hospitals / "south.csv", None)
    past_run(runs, "two", hospitals / "south.csv", f"b < {values[-3]}")
    past_run(runs, "three", hospitals / "south.csv", "b < 0")
    asking = hospitals / "ask.yaml"
    asking.write_text(
        json.dumps(
            {"kind": "analytics", "name": "ask", "data": "scans", "ask": {"n": "SELECT count(*) FROM scans"}}
        )
    )
    words = [str(asking), "-f", str(hospitals / "all.yaml"), "--runs", str(runs)]
    told = audited(capsys, *words)
    assert told["attack"] == "differencing" and told["questions"] == 3 and told["sites"] == sorted(SITES)
    assert [(pair["one"], pair["other"], pair["rows"]) for pair in told["pairs"] if pair["rows"]] == [
        ("one: all", "two: all", 3)
    ]
    assert audited(capsys, *words, "--minimum", "3")["pairs"] == []
    assert run(["privacy", "audit", *words]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 pair of 3 questions isolate fewer than 5 rows, over 3 sites" in shown
    # One participant's file does too: it sees its own rows.
    assert audited(capsys, str(asking), "-f", str(hospitals / "south.yaml"), "--runs", str(runs))[
        "sites"
    ] == ["south"]


def test_what_cannot_be_audited_is_refused(hospitals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, everyone = str(job(hospitals)), str(hospitals / "all.yaml")
    for words, said in (
        ([file], "Cure: --federation"),
        ([file, "-f", everyone, "--participant", "sout"], 'did you mean "south"'),
        ([file, "-f", everyone, "--rounds", "9"], "allowed: 1 to the job's 2"),
        (["configs/jobs/bank_risk.yaml", "-f", everyone], "a vertical job is not audited"),
    ):
        assert run(["privacy", "audit", *words]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert run(["privacy", "audit", str(job(hospitals, data="none")), "-f", everyone]) == 2
    assert "no participant has data set 'none'" in capsys.readouterr().err
