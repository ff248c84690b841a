"""What is told of a round is JSON, comes back bit by bit, and is refused where it is not of its form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.analytics import codec, newton, quantiles
from fedcore.errors import JobError


@dataclass(frozen=True, eq=False)
class Inner:
    values: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    marks: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Outer:
    inner: Inner
    name: str
    number: float
    count: int
    flag: bool
    maybe: float | None
    pair: tuple[str, int]
    many: tuple[float, ...]
    word: Literal["up", "down"] = "up"


def through(value: object) -> object:
    return codec.unpack(type(value), json.loads(json.dumps(codec.pack(value), allow_nan=False)))


def same(a: npt.NDArray, b: npt.NDArray) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and np.array_equal(np.signbit(a * 1.0), np.signbit(b * 1.0))
        and (a.tobytes() == b.tobytes() or np.array_equal(a, b, equal_nan=True))
    )


FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(FLOATS.filter(lambda each: each == each), max_size=6),
    FLOATS,
    st.integers(-(2**63), 2**63 - 1),
    st.text(),
)
def test_every_bit_survives(values: list[float], number: float, count: int, name: str):
    inner = Inner(
        np.array(values, np.float64).reshape(-1, 1),
        np.array([count, 0], np.int64),
        np.array([True, False]),
    )
    before = Outer(inner, name, number, count, True, None, (name, 3), tuple(values), "down")
    after = through(before)
    assert after.inner.values.tobytes() == inner.values.tobytes() and after.inner.values.shape == (
        len(values),
        1,
    )
    assert same(after.inner.counts, inner.counts) and same(after.inner.marks, inner.marks)
    assert after.number == number or (number != number and after.number != after.number)
    assert (after.count, after.name, after.pair, after.many) == (count, name, (name, 3), tuple(values))
    assert after.flag is True and after.maybe is None and after.word == "down"


@settings(max_examples=50, deadline=None)
@given(st.lists(FLOATS, min_size=4, max_size=4))
def test_the_states_of_fits_and_searches_survive(values: list[float]):
    four = np.array(values)
    fit = newton.State(("a", "b"), True, four, four, four, four, values[0], information=four.reshape(2, 2))
    after = through(fit)
    for name in ("centre", "beta", "information"):
        assert np.array_equal(getattr(after, name), getattr(fit, name), equal_nan=True)
    assert after.gain == np.inf and after.names == ("a", "b") and after.done is False
    search = quantiles.search("x", (0.1, 0.5), 0.0, 10.0, 0.1)
    assert (through(search).edges() == search.edges()).all() and through(search).first == (True, True)


GOOD = codec.pack(
    Outer(
        Inner(np.zeros((1, 2)), np.zeros(1, np.int64), np.zeros(0, bool)),
        "x",
        1.0,
        1,
        False,
        2.0,
        ("a", 1),
        (1.0,),
    )
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 3),
        ("name", "x" * 20_001),
        ("number", "1.0"),
        ("number", True),
        ("number", None),
        ("number", 10**400),
        ("count", 1.0),
        ("count", True),
        ("count", 2**63),
        ("flag", 1),
        ("flag", "true"),
        ("maybe", []),
        ("pair", ["a"]),
        ("pair", ["a", 1, 2]),
        ("pair", [1, "a"]),
        ("many", {"0": 1.0}),
        ("many", ["a"]),
        ("word", "sideways"),
        ("word", 1),
        ("inner", None),
        ("inner", []),
    ],
)
def test_a_field_of_another_type_is_refused(field: str, value: object):
    assert codec.unpack(Outer, GOOD).name == "x"
    with pytest.raises(JobError, match="allowed: "):
        codec.unpack(Outer, {**GOOD, field: value})


@pytest.mark.parametrize(
    "array",
    [
        [0.0],
        {"dtype": "float64", "shape": [1]},
        {"dtype": "float32", "shape": [1], "values": [0.0]},
        {"dtype": "object", "shape": [1], "values": [0.0]},
        {"dtype": "int64", "shape": [1], "values": [0]},
        {"dtype": "float64", "shape": 1, "values": [0.0]},
        {"dtype": "float64", "shape": [-1], "values": []},
        {"dtype": "float64", "shape": [True], "values": [0.0]},
        {"dtype": "float64", "shape": [2], "values": [0.0]},
        {"dtype": "float64", "shape": [1], "values": [[0.0]]},
        {"dtype": "float64", "shape": [1], "values": ["NaN"]},
        {"dtype": "float64", "shape": [1] * 40, "values": [0.0]},
        {"dtype": "float64", "shape": [10**12, 0], "values": []},
        {"dtype": "float64", "shape": [1], "values": [0.0], "more": 1},
    ],
)
def test_an_array_of_another_form_is_refused(array: object):
    with pytest.raises(JobError, match="allowed: "):
        codec.unpack(Outer, {**GOOD, "inner": {**GOOD["inner"], "values": array}})


@pytest.mark.parametrize("told", [None, 3, "x", [], {}, {**GOOD, "more": 1}, {"name": "x"}])
def test_what_is_no_object_of_these_fields_is_refused(told: object):
    with pytest.raises(JobError, match="allowed: "):
        codec.unpack(Outer, told)


@pytest.mark.parametrize("value", [object(), {1: 2}, np.zeros(1, np.float32), np.array(["a"]), b"a"])
def test_what_json_cannot_hold_is_not_packed(value: object):
    with pytest.raises(TypeError):
        codec.pack(value)
