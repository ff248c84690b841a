"""Attacks on the promise to each row: by a coordinator that lies, by rows that stand out, by numbers that underflow."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import nn
from torch.nn import functional

from fedcore.errors import FedcoreError, JobError, PolicyRefused
from fedcore.flower import array_record, arrays_in, configs_in, enter_process, ndarrays
from fedcore.jobs.job import LocalTraining, TabularTask, TrainJob
from fedcore.jobs.participant import Participant
from fedcore.jobs.psi import PsiJob
from fedcore.jobs.request import RECORD, TOTALS, TrainRequest, psi_request_for, request_for
from fedcore.learning.builtin import TabularClassifier
from fedcore.learning.examples import Examples
from fedcore.learning.private import loop, step
from fedcore.learning.private.clipping import ClippedSums
from fedcore.learning.private.loop import train_privately
from fedcore.learning.private.step import PrivateStep
from fedcore.learning.seeds import own_randomness
from fedcore.learning.task import Batch, Schema, Task
from fedcore.participant import work
from fedcore.participant.budgets import take_release
from fedcore.participant.mods.policy import check
from fedcore.participant.mods.privacy import privacy
from fedcore.privacy import accounting
from fedcore.privacy.accounting import Gaussian, noise_for
from fedcore.privacy.fourier import Loss, estimate

ROWS = 40
LOSS = partial(functional.cross_entropy, reduction="none")


def asked(run: str, protection: dict[str, Any] | None = None, **promised: Any) -> TrainRequest:
    """The request of an honest job."""
    job = TrainJob.model_validate(
        {
            "kind": "train",
            "name": "a",
            "data": "study",
            "rounds": 3,
            "participants": {"min": 3},
            "task": {"use": "tabular-classifier", "target": "y", "standardize": "none"},
            "local": {"validation": 0, "batch_size": 10},
            "evaluation": {"federated": False},
            "protection": {
                **(protection or {}),
                "differential_privacy": {
                    "level": "record",
                    "epsilon": 1.0,
                    "delta": 1e-3,
                    "classes": [0, 1],
                    **promised,
                },
            },
        }
    )
    return request_for(job, run, 3, None)


def site(folder: Path, labels: list[int], odd: str = "0.5") -> Participant:
    """A site with a row for each label; a feature of the last row is `odd`."""
    folder.mkdir(parents=True)
    table = [f"{i / 10},{odd if i == len(labels) - 1 else '0.5'},{label}" for i, label in enumerate(labels)]
    (folder / "x.csv").write_text("a,b,y\n" + "\n".join(table) + "\n")
    return Participant.model_validate(
        {
            "name": "clinic",
            "catalogue": {"study": {"connector": "csv", "path": str(folder / "x.csv")}},
            "policy": {
                "rules": [{"jobs": ["train"], "data": "study", "min_cohort": 2}],
                "privacy": {
                    "study": {
                        "epsilon": 1.5,
                        "delta": 0.95,
                        "per": "ever",
                        "neighbours": "add-remove-row",
                        "required_for": ["train"],
                    }
                },
            },
            "state": str(folder / "state"),
        }
    )


def answer(participant: Participant, request: TrainRequest, kind: str) -> str:
    """What leaves: the answer, or the text of the refusal."""
    enter_process()
    content = RecordDict(
        {
            RECORD: ConfigRecord({"request": request.to_json()}),
            "config": ConfigRecord({"server-round": 1}),
            "arrays": array_record({"0.weight": torch.zeros(2, 2).numpy(), "0.bias": torch.zeros(2).numpy()}),
        }
    )
    handler = {"query.prepare": work.prepare, TOTALS: work.totals, "train": work.train_round}[kind]
    gate = privacy(lambda context: participant)
    context = Context(1, 1, {}, RecordDict(), {})
    try:
        reply = gate(
            Message(content, 7, kind), context, lambda message, _: handler(participant, request, message)
        )
    except FedcoreError as error:
        return f"refused: {error.message}"
    told = [dict(record) for record in configs_in(reply.content)]
    counts = {name: value.tolist() for r in arrays_in(reply.content) for name, value in ndarrays(r).items()}
    return "trained" if kind == "train" else json.dumps([told, counts], sort_keys=True)


def norm(gradients: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(each.double().square().sum()) for each in gradients))


# ---- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["parts", "general"])
def test_a_tiny_clip_bounds_tiny_gradients(route: str) -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([52.0, 0.0]))  # as a coordinator sends it: gradients of some 1e-23
    sums = ClippedSums(model, LOSS, 1e-30)
    if route == "general":
        sums._go_general("asked for")
    assert norm(sums(torch.full((1, 3), 0.5), torch.tensor([0]))) <= 1e-30 * (1 + 1e-5)


def test_a_large_input_and_a_small_gradient_are_clipped() -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([52.5, 0.0]))
    # The agreed schema's scale is the coordinator's, and makes inputs of any size.
    sums = ClippedSums(model, LOSS, 1e-6)
    assert norm(sums(torch.full((1, 3), 8.5e18), torch.tensor([0]))) <= 1e-6 * (1 + 1e-5)


class Own(nn.Module):
    """A parameter of its own, so that every row's gradient is made."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(50, 10) / 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w


def test_norms_and_sums_of_the_general_way_are_float32_under_autocast() -> None:
    torch.manual_seed(0)
    sums = ClippedSums(Own(), LOSS, 0.1)
    x, y = torch.cat([torch.randn(1, 50).expand(3000, 50), torch.randn(1, 50)]), torch.zeros(3001).long()
    y[-1] = 1
    with torch.autocast("cpu", torch.bfloat16):
        with_it, without = sums(x, y)[0].double(), sums(x[:-1], y[:-1])[0].double()
    assert sums.route == "general"
    assert float((with_it - without).norm()) <= 0.1 * (1 + 1e-3)


class Positions(nn.Module):
    """A layer over positions and an activation in place, as in many a transformer; or a layer whose output is thrown away."""

    def __init__(self, thrown_away: bool) -> None:
        super().__init__()
        self.thrown_away, self.a, self.b = thrown_away, nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.a(x)
        if self.thrown_away:
            found = functional.linear(x, self.a.weight)
        return self.b(functional.relu_(found)).mean(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("thrown_away", [False, True])
def test_no_layer_is_left_without_its_gradient(thrown_away: bool) -> None:
    torch.manual_seed(0)
    model, x, y = Positions(thrown_away), torch.randn(3, 5, 4), torch.arange(3)
    expected = torch.autograd.grad(LOSS(model(x), y).sum(), [model.a.weight])[0]
    torch.testing.assert_close(ClippedSums(model, LOSS, 1e6)(x, y)[0], expected)


def test_the_estimate_is_right_for_a_large_site_with_a_small_batch() -> None:
    # 60,000 rows, batches of 64, one pass; where it is wrong, the accountants contradict each other and the site refuses.
    # Privacy loss distributions of dp-accounting bound it: 0.9899 from below (optimistic), 0.9993 from above.
    found = estimate([Loss("gaussian", 0.6458886918708228, 64 / 60000, 938)], 1e-5)
    assert 0.985 < found < 1.005


def test_a_search_for_noise_does_not_try_noise_that_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    real = accounting._pld

    def careful(releases: Any, delta: float, at: float | None = None) -> float | None:
        if releases[0].noise < 0.05:
            raise MemoryError
        return real(releases, delta, at)

    monkeypatch.setattr(accounting, "_pld", careful)
    assert noise_for(0.6734, 1.03e-6, 12127, lambda noise: [Gaussian(noise, 1, 0.00025327)]) > 0.05


# ---- rows that depend on each other -------------------------------------------------------------------------------


class Dropping(TabularClassifier):
    """Drops half of its hidden units."""

    def model(self) -> nn.Module:
        return own_randomness(nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 2)))


class Noisy(TabularClassifier):
    """Augments each row from its own random numbers."""

    def augmented(self, batch: Batch, source: torch.Generator) -> Batch:
        return Batch(batch.x + 3 * torch.randn(batch.x.shape, generator=source), batch.y)


class Doubling(TabularClassifier):
    """Two views of each row."""

    def augmented(self, batch: Batch, source: torch.Generator) -> Batch:
        return Batch(torch.cat([batch.x, -batch.x]), torch.cat([batch.y, batch.y]))


def of(kind: type[TabularClassifier]) -> TabularClassifier:
    made = kind(TabularTask(use="tabular-classifier", target="y", model="mlp", hidden=(64,)))
    made.schema = Schema(("a", "b", "c"), (3,), (0, 1))
    return made


def moved(task: Task, chosen: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The sum of clipped gradients, clip 1, of one step over some of the rows; without noise."""
    source = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, 3, generator=source)
    torch.manual_seed(1)
    model = task.model()
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    with monkeypatch.context() as patched:
        patched.setattr(loop, "poisson_batch", lambda count, rate: chosen)
        patched.setattr(step, "released", lambda values, deviation, over=1.0: [v / over for v in values])
        local = LocalTraining(batch_size=ROWS, lr=1.0, validation=0)
        train_privately(model, task, Examples(x, (x[:, 0] > 0).long()), local, clip=1.0, noise=1.0)
    return (before - nn.utils.parameters_to_vector(model.parameters()).detach()) * ROWS


@pytest.mark.parametrize("kind", [Dropping, Noisy])
def test_a_row_changes_no_more_than_the_clip_where_others_are_drawn_for_too(
    kind: type[TabularClassifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = torch.arange(ROWS)
    there, again, gone = (moved(of(kind), rows, monkeypatch) for rows in (everyone, everyone, everyone[1:]))
    # Either nobody outside can know the random numbers, or they stay with their rows.
    assert not torch.equal(there, again) or float((there - gone).norm()) <= 1 + 1e-4


def test_an_augmentation_that_makes_two_rows_of_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FedcoreError):
        moved(of(Doubling), torch.arange(ROWS), monkeypatch)


class Mixing(nn.Module):
    """Takes the batch's mean from each row, in training only."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.always, self.out = always, nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x - x.mean(0) if self.training or self.always else x)  # type: ignore[no-any-return]


def test_a_model_that_mixes_rows_in_training_only_is_found() -> None:
    with pytest.raises(JobError):
        PrivateStep(Mixing(False), LOSS, clip=1.0, noise=1.0, expected_batch=4).accumulate(
            torch.rand(4, 3), torch.zeros(4).long()
        )


def test_a_model_that_mixes_rows_is_found_where_the_first_two_are_duplicates() -> None:
    x = torch.rand(4, 3)
    x[1] = x[0]
    with pytest.raises(JobError):
        PrivateStep(Mixing(True), LOSS, clip=1.0, noise=1.0, expected_batch=4).accumulate(
            x, torch.zeros(4).long()
        )


class Remembering(nn.Module):
    """Keeps a running mean of what it sees, which is an array of the model."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 2)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return self.out(x)  # type: ignore[no-any-return]


class Averaging(TabularClassifier):
    def model(self) -> nn.Module:
        return Remembering()


def test_a_buffer_that_training_changes_does_not_leave() -> None:
    task = of(Averaging)
    model, x = task.model(), torch.rand(ROWS, 3)
    try:
        train_privately(
            model,
            task,
            Examples(x, (x[:, 0] > 0.5).long()),
            LocalTraining(validation=0),
            clip=1.0,
            noise=1.0,
        )
    except FedcoreError:
        return
    assert torch.equal(model.state_dict()["seen"], torch.zeros(3))


# ---- what is told beside the model --------------------------------------------------------------------------------


def test_preparing_does_not_tell_whether_one_row_has_a_class(tmp_path: Path) -> None:
    # Nothing is charged for it, under as many runs and over as many columns as the coordinator likes.
    plain, odd = [0, 1] * 20, [0, 1] * 19 + [0, 7]
    told = [
        answer(site(tmp_path / run, labels), asked(run), "query.prepare")
        for run, labels in (("class-a", plain), ("class-b", odd))
    ]
    assert told[0] == told[1]


def test_training_does_not_tell_whether_one_row_has_a_class(tmp_path: Path) -> None:
    told = []
    for run, labels in (("schema-a", [0] * 40), ("schema-b", [0] * 39 + [1])):
        schema = Schema(("a", "b"), (2,), (0, 5)).as_dict()
        request = asked(run).model_copy(update={"schema_": schema})
        told.append(answer(site(tmp_path / run, labels), request, "train"))
    assert told[0] == told[1]


def test_a_row_that_cannot_be_used_is_not_told_of(tmp_path: Path) -> None:
    labels = [0, 1] * 20
    told = [
        answer(site(tmp_path / run, labels, odd), asked(run), "query.prepare")
        for run, odd in (("nan-a", "0.5"), ("nan-b", "nan"))
    ]
    assert told[0] == told[1]


def test_totals_tell_the_number_of_rows_and_nothing_of_their_classes(tmp_path: Path) -> None:
    told = []
    for run, labels in (("totals-a", [0] * 38 + [1, 1]), ("totals-b", [0] * 39 + [1])):
        request = asked(run)
        request = request.model_copy(update={"local": request.local.model_copy(update={"validation": 0.999})})
        told.append(answer(site(tmp_path / run, labels), request, TOTALS))
    assert told[0] == told[1]


def test_a_refusal_does_not_say_a_number_of_rows_that_is_told_in_a_sum_only(tmp_path: Path) -> None:
    hidden = {"secure_aggregation": {"protocol": "secagg+", "examples": "protected"}}
    request = asked("count-a", hidden, delta=0.9)
    assert request.counts_hidden
    told = answer(site(tmp_path / "count-a", [0, 1] * 20), request, "query.prepare")
    assert told.startswith("refused: ") and "40" not in told and "0.025" not in told


# ---- what is paid -------------------------------------------------------------------------------------------------


def test_a_count_of_releases_that_is_lost_ends_the_run(tmp_path: Path) -> None:
    place, request = site(tmp_path / "lost", [0, 1] * 20), asked("lost-a")
    for _ in range(3):
        take_release(place, request, lambda: None, rows=ROWS)
    (tmp_path / "lost" / "state" / "privacy" / "runs" / "lost-a.jsonl").unlink()
    with pytest.raises(FedcoreError):
        take_release(place, request, lambda: None, rows=ROWS)


def test_a_kind_of_job_that_requires_privacy_and_has_none_is_refused(tmp_path: Path) -> None:
    written = {
        "kind": "psi",
        "name": "shared",
        "parties": {"clinic": {"data": "study", "key": "a"}, "shop": {"data": "bills", "key": "a"}},
        "reveal": {"what": "rows", "to": ["shop"]},
    }
    told = site(tmp_path / "psi", [0, 1] * 20).model_dump(mode="json", by_alias=True)
    told["policy"]["privacy"]["study"]["required_for"] = ["train", "psi"]
    told["policy"]["rules"] = [{"jobs": ["psi"], "data": "study", "peers": "any", "reveal": {"rows": "any"}}]
    with pytest.raises(PolicyRefused):
        check(
            Participant.model_validate(told), psi_request_for(PsiJob.model_validate(written), "psi-a", None)
        )
