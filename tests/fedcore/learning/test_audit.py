"""The audit's bound is high for what leaks, near to a known epsilon, and below what is promised."""

from __future__ import annotations

import math
import random

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import stats
from torch import nn

from fedcore.errors import DataError, JobError
from fedcore.learning.audit import Claim, audit, chance, losses, lower_bound, plant, scores
from fedcore.learning.examples import Examples
from fedcore.learning.task import Batch, Schema, Task


def coins(count: int, seed: int) -> np.ndarray:
    return np.array([random.Random(f"{seed}-{at}").random() < 0.5 for at in range(count)])


def answers(included: np.ndarray, epsilon: float, seed: int) -> np.ndarray:
    """Randomised response: each coin is told as it is with probability e^epsilon / (1 + e^epsilon)."""
    drawn = random.Random(seed)
    honest = np.array([drawn.random() < 1 / (1 + math.exp(-epsilon)) for _ in included])
    return np.where(honest, included, ~included).astype(float)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (0.5, 0.0), (2.0, 1e-5), (4.0, 1e-3)])
def test_the_chance_is_that_of_the_theorem_by_scipys_binomial(epsilon: float, delta: float) -> None:
    for m, r, v in ((100, 100, 60), (100, 40, 39), (50, 10, 0), (1000, 500, 420)):
        q = 1 / (1 + math.exp(-epsilon))
        wanted = stats.binom.sf(v - 1, r, q)
        best = (
            max(
                (stats.binom.cdf(v - 1, r, q) - stats.binom.cdf(v - 1 - i, r, q)) / i for i in range(1, v + 1)
            )
            if v
            else 0
        )
        wanted = min(1, wanted + 2 * m * delta * best)
        assert chance(m, r, v, epsilon, delta) == pytest.approx(wanted, rel=1e-8, abs=1e-14)


def test_a_bound_is_where_the_chance_is_the_error_that_is_allowed() -> None:
    for m, r, v, delta in ((100, 100, 80, 0.0), (1000, 200, 190, 1e-5), (100, 50, 50, 0.0)):
        found = lower_bound(m, r, v, delta, 0.95)
        assert found > 0
        assert chance(m, r, v, found - 1e-6, delta) < 0.05 < chance(m, r, v, found + 1e-6, delta) + 1e-6
    # All of 100 right: q^100 = 0.05.
    assert lower_bound(100, 100, 100) == pytest.approx(-math.log(0.05 ** (-1 / 100) - 1), abs=1e-6)
    assert lower_bound(100, 100, 50) == lower_bound(100, 0, 0) == 0
    # A delta explains right guesses, and takes some of the bound.
    assert lower_bound(1000, 500, 450, 1e-3) < lower_bound(1000, 500, 450)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_of_randomised_response_the_bound_is_near_to_the_epsilon_and_below(epsilon: float) -> None:
    included = coins(4000, 1)
    found = audit(answers(included, epsilon, 7), included)
    assert 0.75 * epsilon < found.epsilon <= epsilon


def test_the_bound_is_wrong_no_more_often_than_is_said() -> None:
    # Coins and answers are seeded, so that the count is the same each time; 5 % of 120 are 6.
    wrong = 0
    for seed in range(120):
        included = coins(200, seed)
        wrong += audit(answers(included, 1.0, seed), included).epsilon > 1.0
    assert wrong <= 6


def test_a_mechanism_that_adds_the_noise_it_promises_stays_below_its_claim() -> None:
    # Each canary adds 1 to a coordinate of its own: a sum with Gaussian noise, of which all is seen. Seeded.
    from fedcore.privacy.accounting import Gaussian, epsilon

    noise, many = 1.0, 1000
    claim = Claim(epsilon([Gaussian(noise)], 1e-5, many).value, 1e-5, "")
    for seed in range(2):
        included = coins(many, seed)
        seen = included + np.random.default_rng(seed).normal(0, noise, many)
        found = audit(seen, included, delta=1e-5, claim=claim)
        assert 0.5 < found.epsilon < claim.epsilon and found.holds


def test_noise_that_is_a_tenth_of_what_is_promised_is_found_out() -> None:
    included = coins(1000, 3)
    seen = included + np.random.default_rng(3).normal(0, 0.1, 1000)
    found = audit(seen, included, delta=1e-5, claim=Claim(1.0, 1e-5, ""))
    assert found.epsilon > 3 and found.holds is False
    assert found.to_json()["holds"] is False and found.to_json()["claim"]["epsilon"] == 1.0


def test_what_remembers_nothing_gives_no_bound() -> None:
    included = coins(500, 4)
    found = audit(np.random.default_rng(5).normal(size=500), included)
    assert found.epsilon == 0 and found.claim is None and found.holds is None


class Nearest(Task):
    """Remembers: the loss of a row is its distance to the nearest row of the model."""

    def model(self) -> nn.Module:
        made = nn.Module()
        made.register_buffer("rows", torch.zeros(self.schema.shape))
        return made

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return torch.cdist(batch.x, model.rows).min(dim=1).values.mean()  # type: ignore[arg-type]

    def metrics(self, model: nn.Module, batches: object) -> dict[str, float]:
        return {}


def test_a_model_that_remembers_its_rows_leaks_all_that_a_bound_can_say() -> None:
    table = pa.table(
        {
            "a": [at * 0.37 % 11 for at in range(300)],
            "b": [at * 0.73 % 7 for at in range(300)],
            "y": [at % 3 for at in range(300)],
        }
    )
    planted = plant(table, "y", 100, None, random.Random(1))

    def matrix(held: pa.Table) -> torch.Tensor:
        return torch.tensor(
            np.column_stack([held.column(name).to_numpy() for name in held.column_names]), dtype=torch.float32
        )

    rows = Examples(matrix(planted.canaries), torch.zeros(0))
    found = []
    for trained in (planted.others, planted.table):
        task = Nearest()
        task.schema = Schema(("a", "b", "y"), tuple(matrix(trained).shape))
        found.append(losses(task, {"rows": matrix(trained).numpy()}, rows))
    made = audit(scores(*found), planted.included, claim=Claim(1.0, 0.0, ""))
    assert made.epsilon > 2 and made.holds is False


def test_canaries_have_a_wrong_target_and_stand_behind_the_rows_that_stay_as_they_are() -> None:
    table = pa.table(
        {"id": list(range(60)), "x": [at / 7 for at in range(60)], "y": ["a", "b", "c", "a"] * 15}
    )
    planted = plant(table, "y", 25, "id", random.Random(2))
    assert planted.canaries.num_rows == len(planted.included) == 25
    assert planted.others.num_rows == 35 and 0 < planted.included.sum() < 25
    assert planted.table.slice(0, 35).equals(planted.others)
    true = {row["x"]: row for row in table.to_pylist()}
    assert all(true[row["x"]] == row for row in planted.others.to_pylist())
    for row in planted.canaries.to_pylist():
        assert row["y"] != true[row["x"]]["y"] and row["y"] in ("a", "b", "c") and row["id"] >= 60
    # Each row is one or the other.
    assert (
        sorted(planted.others["x"].to_pylist() + planted.canaries["x"].to_pylist()) == table["x"].to_pylist()
    )
    assert len(set(planted.canaries["id"].to_pylist())) == 25
    assert planted.table.slice(35)["x"].to_pylist() == [
        x for x, chosen in zip(planted.canaries["x"].to_pylist(), planted.included, strict=True) if chosen
    ]
    named = pa.table({"id": ["p", "q", "r", "s", "t", "u"], "y": [0, 1, 1, 0, 0, 1]})
    few = plant(named, "y", 99, "id", random.Random(2))
    assert few.canaries["id"].to_pylist() == ["canary-0", "canary-1", "canary-2"]


def test_a_lower_loss_is_a_higher_score_and_large_losses_count_by_their_ratio() -> None:
    assert (
        scores(np.array([3.0, 3.0]), np.array([0.5, 2.9]))[0]
        > 2 * scores(np.array([3.0]), np.array([2.0]))[0]
    )
    assert scores(np.array([20.0, 5.0]), np.array([40.0, 0.7])).tolist() == pytest.approx(
        [-0.693, 1.66], abs=0.01
    )


def test_what_cannot_be_audited_is_refused() -> None:
    with pytest.raises(DataError, match="one value at this site"):
        plant(pa.table({"y": [1, 1]}), "y", 1, None, random.Random(0))
    with pytest.raises(DataError, match="no column 'z'"):
        plant(pa.table({"y": [1, 0]}), "z", 1, None, random.Random(0))
    with pytest.raises(JobError, match="allowed: as many, 2 or more"):
        audit(np.zeros(3), np.zeros(2, bool))
    with pytest.raises(JobError, match=r"confidence is 1\.0"):
        audit(np.zeros(3), np.zeros(3, bool), confidence=1.0)
    with pytest.raises(DataError, match="not finite"):
        audit(np.array([0, math.nan]), np.zeros(2, bool))
    for wrong in ((10, 11, 3, 0.0), (10, 5, 6, 0.0), (10, 5, -1, 0.0), (10, 5, 3, 1.0)):
        with pytest.raises(JobError, match="allowed: not more than the next"):
            lower_bound(*wrong)
