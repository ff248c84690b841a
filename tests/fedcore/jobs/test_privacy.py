"""What a train job may say of differential privacy."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.jobs.job import Protection, TrainJob, parse_job
from fedcore.jobs.load import load_job
from fedcore.jobs.request import TrainRequest, parse_request, request_for
from tests.fedcore.jobs.job_files import only

PROMISE = "level: client, epsilon: 8, delta: 1.0e-5, classes: [0, 1]"
JOB = """kind: train
name: a
data: rows
task: {use: tabular-classifier, target: y, standardize: none}
evaluation: {federated: false}
protection: {secure_aggregation: secagg+, differential_privacy: {PROMISE}}
"""


def job(text: str = JOB, promise: str = PROMISE) -> str:
    """The file's text."""
    return text.replace("PROMISE", promise)


def loaded(folder: Path, text: str) -> TrainJob:
    """The job of a file with this text."""
    (folder / "a.yaml").write_text(text)
    found = load_job(folder / "a.yaml")
    assert isinstance(found, TrainJob)
    return found


def test_a_job_asks_and_comes_back_from_its_own_record(tmp_path: Path) -> None:
    asked = loaded(tmp_path, job())
    found = asked.protection.differential_privacy
    assert found is not None and (found.epsilon, found.delta, found.clip) == (8.0, 1e-5, 1.0)
    assert found.word == "client-level, epsilon 8, delta 1e-05"
    assert parse_job(asked.model_dump(mode="json", by_alias=True)) == asked
    request = parse_request(request_for(asked, "run-1", 5, None).to_json())
    assert isinstance(request, TrainRequest)
    assert request.private and request.counts_hidden and request.differential_privacy == found


def test_a_job_without_it_is_written_as_before() -> None:
    assert Protection().model_dump() == {"secure_aggregation": "none"}


def test_the_relation_follows_from_the_sampling_where_the_job_leaves_it_open(tmp_path: Path) -> None:
    found = loaded(tmp_path, job()).protection.differential_privacy
    assert found is not None
    assert (found.change(1.0), found.change(0.5)) == ("replace", "add-remove")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("epsilon: 8", "epsilon: 0", "epsilon"),
        ("epsilon: 8", "epsilon: -1", "epsilon"),
        ("epsilon: 8", "epsilon: .inf", "epsilon"),
        ("delta: 1.0e-5", "delta: 0", "delta"),
        ("delta: 1.0e-5", "delta: 1", "delta"),
        ("delta: 1.0e-5", "delta: 0.5", "below one over the number"),
        ("level: client", "level: row", "level"),
        ("epsilon: 8", "epsilon: 8, clip: 0", "clip"),
        ("epsilon: 8", "epsilon: 8, quantile: 0.9", "clipping: adaptive"),
        ("epsilon: 8", "epsilon: 8, mode: local", "leave secure_aggregation out"),
        ("classes: [0, 1]", "classes: [0, 0]", "each once"),
        (", classes: [0, 1]", "", "name the values that the target can have"),
        ("epsilon: 8", "epsilom: 8", "epsilon"),
        ("epsilon: 8", "epsilon: 8, neighbors: replace", "neighbours"),
        ("secure_aggregation: secagg+, ", "", "set secure_aggregation: secagg+"),
        ("secagg+", "threshold", "set secure_aggregation: secagg+"),
        ("evaluation: {federated: false}\n", "", "evaluation.federated"),
        (", standardize: none", "", "task.standardize"),
        ("{federated: false}", "{federated: false}\nplacement: p.yaml", "placement"),
        (
            "{federated: false}",
            "{federated: false, central: {connector: csv, path: c.csv}}\nbaselines: [pooled]",
            "baselines",
        ),
        (
            "epsilon: 8",
            "epsilon: 8, neighbours: replace}\n}\nparticipants: {min: 2, fraction: 0.5",
            "fraction",
        ),
    ],
)
def test_bad_words_are_refused_with_the_key_and_the_cure(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    text = job()
    assert old in text
    (tmp_path / "c.csv").write_text("y\n1\n")
    if "fraction" in new:
        text = text.replace("evaluation", "participants: {min: 2, fraction: 0.5}\nevaluation").replace(
            "epsilon: 8", "epsilon: 8, neighbours: replace"
        )
    else:
        text = text.replace(old, new)
    from tests.fedcore.jobs.job_files import told as problems

    assert any(told in each for each in problems(tmp_path, text)), problems(tmp_path, text)


def test_the_nearest_key_is_named(tmp_path: Path) -> None:
    assert 'did you mean "epsilon"' in only(tmp_path, job().replace("epsilon: 8", "epsilonn: 8"))
