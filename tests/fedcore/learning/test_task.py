"""What a person writes: the schema's JSON, sums of metrics, and a task of one's own from end to end."""

from __future__ import annotations

import json
import math
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import fedcore
from fedcore.errors import DataError
from fedcore.learning import task as module
from fedcore.learning.task import MetricSums, Schema
from tests.sites import Study, write_job, write_site

# The example of the documentation, so that it stays true.
_EXAMPLE = textwrap.dedent(module.__doc__.split("are done by fedcore:\n", 1)[1])
_space = {"fedcore": fedcore, "torch": torch}
exec(compile(_EXAMPLE, "fedcore/learning/task.py", "exec"), _space)
Ridge = _space["Ridge"]


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5),
    st.lists(
        st.text(max_size=3) | st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=5
    ),
)
def test_a_schema_survives_json(mean, classes) -> None:
    schema = Schema(("a", "b"), (3, 8, 8), tuple(classes), tuple(mean), tuple(mean))
    assert Schema.from_dict(json.loads(json.dumps(schema.as_dict()))) == schema


def test_sums_become_means_over_all_rows_and_nan_over_none() -> None:
    sums = MetricSums()
    sums.add(3, loss=6.0, hits=2)
    sums.add(1, loss=2.0)
    assert sums.means() == {"loss": 2.0, "hits": 0.5}
    assert math.isnan(MetricSums(0, {"loss": 0.0}).means()["loss"])


@pytest.fixture
def heights(tmp_path) -> Study:
    """Three sites with a number to predict, of different sizes and slopes."""

    def columns(i: int) -> dict:
        rng = np.random.default_rng(i)
        x = rng.normal(size=(30 + 20 * i, 2))
        return {"a": x[:, 0], "b": x[:, 1], "y": x @ [2.0, -1.0 - i] + 3 + 0.1 * rng.normal(size=len(x))}

    study = Study(tmp_path, columns=columns)
    for i, name in enumerate(study.names):
        write_site(tmp_path, name, columns(i), extra="  code: [fedcore, strategies, tests]\n")
    study.tables = [columns(i) for i in range(3)]
    return study


def test_the_documented_regression_task_reaches_the_least_squares_optimum(heights) -> None:
    heights.job = write_job(
        heights.folder,
        task="{use: 'tests.fedcore.learning.test_task:Ridge', target: y}",
        local="{lr: 0.3, batch_size: 1000, validation: 0}",
        rounds=60,
        evaluation="{every: 60}",
    )
    run = heights.run()
    x = np.concatenate([np.stack([t["a"], t["b"], np.ones(len(t["a"]))], axis=1) for t in heights.tables])
    y = np.concatenate([t["y"] for t in heights.tables])
    best, *_ = np.linalg.lstsq(x, y, rcond=None)
    found = load_file(run.model)
    np.testing.assert_allclose([*found["weight"][0], found["bias"][0]], best, atol=1e-4)
    mse = run.json["final"]["evaluate"]["mse"]
    assert mse == pytest.approx(np.mean((x @ best - y) ** 2), rel=1e-4)
    card = json.loads((run.folder / "model.json").read_text())
    assert card["schema"]["classes"] == [] and card["schema"]["features"] == ["a", "b"]


def test_a_regression_over_text_is_refused_with_the_column(heights) -> None:
    heights.job = write_job(
        heights.folder, task="{use: 'tests.fedcore.learning.test_task:Ridge', target: y, features: [a]}"
    )
    write_site(
        heights.folder,
        "site-1",
        {"a": np.zeros(40), "y": ["tall"] * 40},
        extra="  code: [fedcore, strategies, tests]\n",
    )
    with pytest.raises(DataError, match="target 'y' is not numeric"):
        heights.run()


class Uneven(Ridge):
    """Reports one more metric where the rows are many, and one that no site can define."""

    def metrics(self, model, batches):
        batches = list(batches)
        rows = sum(len(batch) for batch in batches)
        found = {**super().metrics(model, batches), "never": float("nan")}
        return {**found, "rows": rows} if rows > 8 else found


def test_a_metric_of_some_sites_only_is_their_mean_whatever_the_strategy(heights) -> None:
    task = "{use: 'tests.fedcore.learning.test_task:Uneven', target: y}"
    for strategy in ("fedavg", "fedmedian"):  # folded as they come, and listed
        heights.job = write_job(heights.folder, task=task, strategy=f"{{use: {strategy}}}", rounds=1)
        told = heights.run(folder=heights.folder / strategy).json
        # Validation rows are 6, 10 and 14.
        assert told["final"]["evaluate"]["rows"] == pytest.approx((10 * 10 + 14 * 14) / 24)
        assert told["final"]["evaluate"]["never"] is None


def test_stopping_by_a_metric_that_is_never_defined_says_so(heights) -> None:
    heights.job = write_job(
        heights.folder,
        task="{use: 'tests.fedcore.learning.test_task:Uneven', target: y}",
        rounds=5,
        stop="{metric: never, patience: 2}",
    )
    told = heights.run().json
    assert told["status"] == "stopped-early" and told["reason"] == "never was not defined in 2 evaluations"
    assert told["best"] is None and len(told["rounds"]) == 2
