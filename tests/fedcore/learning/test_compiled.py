"""A compiled model gives the numbers of the plain one, shares its arrays, and is left out where it cannot be."""

from __future__ import annotations

import copy
import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from fedcore.errors import DataError
from fedcore.learning import compiled as module
from fedcore.learning.compiled import compiled, may_be_the_compilers, release_compiled
from fedcore.learning.examples import Examples
from fedcore.learning.models import SmallCNN, mlp
from fedcore.learning.seeds import own_randomness
from fedcore.learning.training import placed, take_arrays, train
from tests.fedcore.learning.test_training import Classes, rows_of, same
from tests.messages import local

CPU = torch.device("cpu")
SEED = (7, "site-0", "train", 1)


class Spy(nn.Module):
    """Stands for what `torch.compile` returns."""

    def __init__(self, inner: nn.Module, fails: Exception | None = None) -> None:
        super().__init__()
        self._orig_mod, self.fails = inner, fails
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        if self.fails is not None:
            raise self.fails
        return self._orig_mod(x)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was compiled, and how; nothing really is."""
    made: list[Any] = []

    def stand_in(model: nn.Module, **settings: Any) -> Spy:
        made.append((settings, Spy(model)))
        return made[-1][1]

    monkeypatch.setattr(torch, "compile", stand_in)
    monkeypatch.setattr(module, "_failed", [])
    release_compiled()
    yield made
    release_compiled()


def models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    model = own_randomness(mlp(4, 2, (6,)))
    return model, copy.deepcopy(model)


def test_whole_batches_go_through_the_compiled_model_and_the_last_one_through_the_plain(made) -> None:
    model, plain = models()
    train(model, Classes(), rows_of(37), local(compile=True), seed=SEED)
    train(plain, Classes(), rows_of(37), local(), seed=SEED)
    ((settings, spy),) = made
    assert settings == {"dynamic": False, "mode": "default"} and spy.sizes == [8, 8, 8, 8]
    assert same(model, plain) and list(take_arrays(model)) == list(take_arrays(plain))


def test_a_model_is_compiled_once_for_all_rounds_of_a_thread(made) -> None:
    model, other = models()
    for number in range(3):
        train(model, Classes(), rows_of(16), local(compile=True), seed=(*SEED, number))
    assert len(made) == 1
    train(other, Classes(), rows_of(16), local(compile=True), seed=SEED)
    assert len(made) == 2


def test_small_models_on_a_gpu_are_replayed_as_graphs_and_large_ones_not(made, monkeypatch) -> None:
    small, large = models()
    compiled(small, torch.device("cuda"))
    monkeypatch.setattr(module, "SMALL", 3)
    compiled(large, torch.device("cuda"))
    assert [settings["mode"] for settings, _ in made] == ["reduce-overhead", "default"]


def test_where_no_compiler_is_there_training_goes_on_plainly_and_says_so_once(made, caplog) -> None:
    (model, plain), other = models(), models()[0]
    compiled(model, CPU)
    made[0][1].fails = RuntimeError("No working C++ compiler found\nSet TORCHDYNAMO_VERBOSE=1 for more")
    with caplog.at_level(logging.WARNING, "fedcore.learning"):
        done = train(model, Classes(), rows_of(20), local(compile=True), seed=SEED)
        train(other, Classes(), rows_of(20), local(compile=True), seed=SEED)
    train(plain, Classes(), rows_of(20), local(), seed=SEED)
    assert made[0][1].sizes == [8] and len(made) == 1 and done.steps == 3
    assert same(model, plain) and same(other, plain)
    (told,) = caplog.messages
    assert told == "local.compile has no effect here: RuntimeError"  # other words may quote the rows


def test_what_the_compiler_itself_says_is_said_and_what_others_say_is_not() -> None:
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import InvalidCxxCompiler

    assert module.words_of(ValueError("patient 4711 has no label")) == "ValueError"
    own = InvalidCxxCompiler()
    assert module.words_of(own).startswith("InvalidCxxCompiler: No working C++ compiler")
    assert module.words_of(BackendCompilerFailed(print, own, None)) == module.words_of(own)


class Normal(nn.Module):
    """Batch normalisation and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.inner(x)
        return made


@pytest.mark.parametrize(
    "error", [RuntimeError("cannot be loaded"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_statistics_and_dropout_are_those_of_one_pass_where_the_compiled_one_fails_at_its_end(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FailsBehind(Spy):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self._orig_mod(x)
            raise error

    monkeypatch.setattr(module, "_failed", [])
    monkeypatch.setattr(torch, "compile", lambda model, **_: FailsBehind(model))
    release_compiled()
    torch.manual_seed(1)
    model = own_randomness(Normal())
    plain = copy.deepcopy(model)
    train(model, Classes(), rows_of(24), local(compile=True), seed=SEED)
    train(plain, Classes(), rows_of(24), local(), seed=SEED)
    release_compiled()
    assert same(model, plain)
    assert int(model.state_dict()["inner.1.num_batches_tracked"]) == 3
    assert bool(module._failed) == (type(error) is RuntimeError)


def test_full_memory_of_the_compiled_model_is_no_reason_to_give_up_compiling(made) -> None:
    model, plain = models()
    compiled(model, CPU)
    made[0][1].fails = torch.OutOfMemoryError("CUDA out of memory")
    train(model, Classes(), rows_of(16), local(compile=True), seed=SEED)
    train(plain, Classes(), rows_of(16), local(), seed=SEED)
    assert same(model, plain)
    assert compiled(model, CPU) is not None


@pytest.mark.parametrize(
    "error",
    [
        DataError("mine"),
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: assert"),
    ],
)
def test_errors_with_cures_of_their_own_are_not_taken_for_the_compilers(error, made) -> None:
    assert not may_be_the_compilers(error)


def test_a_mistake_of_the_task_comes_in_its_own_words(made) -> None:
    class Broken(Classes):
        def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train(models()[0], Broken(), rows_of(8), local(compile=True), seed=SEED)


WITHOUT_A_COMPILER = """
import logging, torch
from fedcore.learning.examples import Examples
from fedcore.learning.models import mlp
from fedcore.learning.training import train
from tests.fedcore.learning.test_training import Classes, rows_of
from tests.messages import local
logging.basicConfig(format="%(message)s")
print(train(mlp(4, 2), Classes(), rows_of(24), local(compile=True), seed=(1,)).steps)
"""


@pytest.mark.slow
def test_a_machine_without_a_compiler_trains_plainly_and_says_so_once(tmp_path) -> None:
    without = {"PATH": str(tmp_path), "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_COMPILER],
        env={**os.environ, **without, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.strip() == "3"
    assert (
        done.stderr.count("local.compile has no effect here: InvalidCxxCompiler: No working C++ compiler")
        == 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: mlp(64, 10, (128, 128)), lambda: SmallCNN((1, 8, 8), 10)])
def test_really_compiled_models_train_as_plain_ones(make) -> None:
    source = torch.Generator().manual_seed(0)
    shape = (40, 1, 8, 8) if isinstance(make(), SmallCNN) else (40, 64)
    rows = Examples(torch.rand(*shape, generator=source), torch.arange(40) % 10)
    found = []
    for compile_it in (False, True):
        torch.manual_seed(1)
        model = placed(own_randomness(make()), CPU)
        done = train(model, Classes(), rows, local(epochs=2, compile=compile_it, batch_size=16), seed=SEED)
        found.append((done, take_arrays(model)))
    (plain, expected), (done, arrays) = found
    assert not module._failed, "no compiler here"
    assert done.steps == plain.steps and done.loss == pytest.approx(plain.loss, rel=1e-5)
    assert list(arrays) == list(expected)
    for name, value in arrays.items():
        torch.testing.assert_close(torch.tensor(value), torch.tensor(expected[name]), rtol=1e-5, atol=1e-5)
    release_compiled()
