"""A site's rows for a run: read once, checked against its policy, described without values, split, encoded."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import fedcore.participant.data as data
from fedcore.errors import DataError, PolicyRefused
from fedcore.jobs.participant import Policy, Rule
from fedcore.learning.task import Schema
from fedcore.participant import site as module
from fedcore.participant.site import agreed_task, open_site, ready_site
from tests.messages import a_request, a_site
from tests.sites import blobs

CPU = torch.device("cpu")
AGREED = Schema(("f0", "f1", "f2", "f3"), (4,), (0, 1), (1.0,) * 4, (2.0,) * 4).as_dict()


@pytest.fixture(autouse=True)
def _nothing_kept():
    module._cache.clear()


@pytest.fixture
def reads(monkeypatch) -> list[object]:
    """The columns that each reading of a table asked for."""
    found: list[object] = []
    original = data.read_table

    def read(*args, **options):
        found.append(args[1])
        return original(*args, **options)

    monkeypatch.setattr(data, "read_table", read)
    return found


def test_a_site_is_read_once_in_a_run_and_again_in_another(tmp_path, reads) -> None:
    site = a_site(tmp_path)
    first = open_site(site, a_request())
    assert open_site(site, a_request(schema=AGREED)) is first
    assert ready_site(site, a_request(schema=AGREED), CPU) is ready_site(site, a_request(schema=AGREED), CPU)
    assert len(reads) == 1
    open_site(site, a_request(run="run-2"))
    assert len(reads) == 2


def test_rows_of_old_runs_are_not_kept(tmp_path, reads) -> None:
    site = a_site(tmp_path)
    for run in ("run-1", "run-2", "run-3", "run-1"):
        open_site(site, a_request(run=run))
    assert len(reads) == 4 and len(module._cache) == module.RUNS_KEPT


def test_two_participants_of_a_run_have_rows_of_their_own(tmp_path) -> None:
    first, second = (a_site(tmp_path, blobs(20 + 10 * i, i), name=f"site-{i}") for i in range(2))
    assert [len(open_site(s, a_request()).rows) for s in (first, second)] == [20, 30]


def test_only_the_columns_that_the_job_names_are_read(tmp_path, reads) -> None:
    task = {"use": "tabular-classifier", "target": "y", "features": ["f2", "f0"]}
    assert open_site(a_site(tmp_path), a_request(task=task)).rows.features == ("f2", "f0")
    assert reads == [["f2", "f0", "y"]]


def test_the_description_has_names_and_counts_and_no_value_of_a_feature(tmp_path) -> None:
    columns = {"f0": np.full(10, 4711.25), "y": ["ill", "well"] * 5}
    site = open_site(a_site(tmp_path, columns), a_request())
    told = site.describe() | site.counts()
    assert told == {
        "features": ["f0"],
        "shape": [1],
        "dtype": "float32",
        "classes": ["ill", "well"],
        "rows": 10,
        "train_rows": 8,
        "validation_rows": 2,
    }
    assert "4711" not in json.dumps(told)


def test_moments_are_sums_over_the_training_rows_in_double_precision(tmp_path) -> None:
    columns = {**blobs(50, 1), "f0": 1e6 + np.arange(50.0)}
    site = open_site(a_site(tmp_path, columns), a_request())
    sums, squares = site.moments()
    x = np.stack([np.float32(columns[f"f{i}"]) for i in range(4)], axis=1)[site.train].astype(np.float64)
    np.testing.assert_allclose(sums, x.sum(axis=0), rtol=1e-14)
    np.testing.assert_allclose(squares, (x**2).sum(axis=0), rtol=1e-14)


def test_fewer_rows_than_the_policy_asks_for_are_refused_before_anything_is_told(tmp_path) -> None:
    site = a_site(tmp_path, blobs(9, 0), rule="{jobs: [train], data: any, min_rows: 10}")
    with pytest.raises(
        PolicyRefused, match=r"fewer rows than the 10 that the site's policy asks for"
    ) as caught:
        open_site(site, a_request())
    assert "9" not in str(caught.value), "the number of rows is not told"
    assert len(open_site(a_site(tmp_path, blobs(10, 0)), a_request(run="run-2")).rows) == 10


def test_one_of_two_rules_is_enough_for_few_rows(tmp_path) -> None:
    site = a_site(tmp_path)
    rules = tuple(Rule(jobs=("train",), data="study", min_rows=least) for least in (1000, 20, 500))
    site = site.model_copy(update={"policy": Policy(rules=rules)})
    assert len(open_site(site, a_request()).rows) == 40


def test_rows_of_one_person_are_on_one_side(tmp_path) -> None:
    rng = np.random.default_rng(0)
    columns = {**blobs(120, 0), "patient": [f"p{i}" for i in rng.integers(0, 25, 120)]}
    site = a_site(tmp_path, columns)
    study = site.catalogue["study"].model_copy(update={"row_id": "patient"})
    site = site.model_copy(update={"catalogue": {"study": study}})
    opened = open_site(site, a_request())
    people = np.array(columns["patient"])
    assert not set(people[opened.train]) & set(people[opened.validation])
    assert len(opened.validation) > 0 and "patient" not in opened.rows.features


def test_the_split_depends_on_seed_and_site_not_on_the_run(tmp_path) -> None:
    site = a_site(tmp_path)
    splits = [
        open_site(site, a_request(run=f"run-{i}", seed=seed)).validation.tolist()
        for i, seed in enumerate([3, 3, 4])
    ]
    assert splits[0] == splits[1] != splits[2]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (blobs(1, 0), "no rows are left to train on"),
        ({"f0": np.arange(1200.0), "y": np.arange(1200)}, "more than 1000 distinct values"),
        ({"f0": ["a"] * 9, "y": [0, 1, 2] * 3}, "no numeric column beside the target"),
    ],
)
def test_rows_that_cannot_serve_the_task_are_refused(tmp_path, columns, words) -> None:
    site = a_site(tmp_path, columns, rule="{jobs: [train], data: any, min_rows: 1}")
    with pytest.raises(DataError, match=words):
        open_site(site, a_request(local={"validation": 0.9}))


def test_encoding_follows_the_agreed_schema_on_both_sides(tmp_path) -> None:
    site = a_site(tmp_path)
    request = a_request(schema=AGREED)
    opened, ready = open_site(site, request), ready_site(site, request, CPU)
    for side, at in ((ready.train, opened.train), (ready.validation, opened.validation)):
        np.testing.assert_allclose(side.x.numpy(), (opened.rows.x[at] - 1) / 2, rtol=1e-6)
        assert side.y.tolist() == opened.rows.target[at].tolist()
    assert ready.task is agreed_task(request), "one task for all participants of a process"


def test_work_before_an_agreed_schema_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="must prepare the run first"):
        ready_site(a_site(tmp_path), a_request(), CPU)


# ---- what one request of a run was allowed does not serve another -------------------------------------------


def test_another_purpose_of_the_same_run_gets_only_its_own_columns(tmp_path) -> None:
    columns = ("f0", "y")
    rules = (
        Rule(jobs=("train",), data="study", purpose="research"),
        Rule(jobs=("train",), data="study", purpose="billing", columns=columns),
    )
    site = a_site(tmp_path).model_copy(update={"policy": Policy(rules=rules)})
    task = {"use": "tabular-classifier", "target": "y", "features": ["f0"]}
    assert len(open_site(site, a_request()).rows.features) == 4
    assert open_site(site, a_request(purpose="billing", task=task)).rows.features == ("f0",)


def test_a_smaller_cohort_falls_under_its_own_rule_also_in_the_middle_of_a_run(tmp_path) -> None:
    rules = (
        Rule(jobs=("train",), data="study", min_cohort=10, min_rows=5),
        Rule(jobs=("train",), data="study", min_cohort=2, min_rows=100),
    )
    site = a_site(tmp_path).model_copy(update={"policy": Policy(rules=rules)})
    ready_site(site, a_request(cohort=10, schema=AGREED), CPU)
    for open_ in (open_site, lambda site, request: ready_site(site, request, CPU)):
        with pytest.raises(PolicyRefused, match="fewer rows than the 100"):
            open_(site, a_request(cohort=3, schema=AGREED))
