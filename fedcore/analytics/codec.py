"""Dataclasses with arrays as JSON values and back, exactly: what a coordinator tells the sites before a round.

Numbers keep every bit: a double is written as the shortest text that is read as the same double, and what JSON has no
number for as the texts `nan`, `inf` and `-inf`. An array is its type, its shape and its values. Reading trusts nothing:
each field must have the type that the dataclass declares, and no array or text may be larger than a round needs.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from fedcore.errors import JobError

STEP = "round"
MOST = 2_000_000
"""Entries of an array or list."""
MOST_TEXT = 20_000
_ODD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_DTYPES = ("float64", "int64", "bool")
_DIMENSIONS = 4

Held = TypeVar("Held")


def pack(value: Any) -> Any:
    """A dataclass, array, tuple, number, text or None as JSON values.

    Args:
        value: A dataclass is written as an object of its fields; arrays are float64, int64 or bool.

    Raises:
        TypeError: It is or holds something else.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: pack(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        if str(value.dtype) not in _DTYPES:
            raise TypeError(f"an array of {value.dtype}; allowed: {', '.join(_DTYPES)}")
        return {
            "dtype": str(value.dtype),
            "shape": list(value.shape),
            "values": [pack(each) for each in value.ravel().tolist()],
        }
    if isinstance(value, np.generic):
        return pack(value.item())
    if isinstance(value, tuple | list):
        return [pack(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} cannot be told to a site")


def unpack(kind: type[Held], told: Any) -> Held:
    """What `pack` was given.

    Args:
        kind: The dataclass.
        told: JSON values, as somebody else sent them.

    Raises:
        JobError: A field is missing, unknown, of another type or too large.
    """
    made = _dataclass(kind, told, kind.__name__)
    return typing.cast(Held, made)


def _dataclass(kind: Any, told: Any, where: str) -> Any:
    if not isinstance(told, dict):
        raise _wrong(where, "an object")
    fields = {each.name for each in dataclasses.fields(kind)}
    if set(told) != fields:
        odd = sorted(map(str, set(told) ^ fields))
        raise _wrong(where, f"its fields, each once; {', '.join(odd)[:200]} is missing or unknown")
    hints = get_type_hints(kind)
    made = {name: _read(hints[name], told[name], f"{where}.{name}") for name in sorted(fields)}
    return kind(**made)


def _read(hint: Any, told: Any, where: str) -> Any:
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, told, where)
    if origin is np.ndarray:
        return _array(np.dtype(get_args(get_args(hint)[1])[0]), told, where)
    if origin in (typing.Union, types.UnionType):
        if told is None and type(None) in get_args(hint):
            return None
        (only,) = (each for each in get_args(hint) if each is not type(None))
        return _read(only, told, where)
    if origin is tuple:
        return _tuple(get_args(hint), told, where)
    if origin is Literal:
        if told not in get_args(hint) or isinstance(told, bool):
            raise _wrong(where, f"one of {', '.join(map(str, get_args(hint)))}")
        return told
    if hint is float:
        return _float(told, where)
    if hint not in (int, bool, str):
        raise TypeError(f"{where} is declared as {hint}, which cannot be read")
    if type(told) is not hint:
        raise _wrong(where, {int: "a whole number", bool: "true or false", str: "text"}[hint])
    if isinstance(told, str) and len(told) > MOST_TEXT:
        raise _wrong(where, f"text of at most {MOST_TEXT} characters")
    if hint is int and not -(2**63) <= told < 2**63:
        raise _wrong(where, "a whole number of 64 bits")
    return told


def _float(told: Any, where: str) -> float:
    if isinstance(told, str) and told in _ODD:
        return _ODD[told]
    if isinstance(told, bool) or not isinstance(told, int | float):
        raise _wrong(where, "a number, nan, inf or -inf")
    try:
        made = float(told)
    except OverflowError:
        made = math.inf
    if not math.isfinite(made):
        raise _wrong(where, "a number that fits a double")
    return made


def _tuple(hints: tuple[Any, ...], told: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(told, list) or len(told) > MOST:
        raise _wrong(where, f"a list of at most {MOST}")
    each = [hints[0]] * len(told) if len(hints) == 2 and hints[1] is Ellipsis else list(hints)
    if len(each) != len(told):
        raise _wrong(where, f"a list of {len(each)}")
    return tuple(_read(hint, value, where) for hint, value in zip(each, told, strict=True))


def _array(dtype: np.dtype[Any], told: Any, where: str) -> np.ndarray[Any, Any]:
    if not isinstance(told, dict) or set(told) != {"dtype", "shape", "values"}:
        raise _wrong(where, "an array: its dtype, shape and values")
    shape, values = told["shape"], told["values"]
    if told["dtype"] != str(dtype):
        raise _wrong(where, f"an array of {dtype}")
    whole = isinstance(shape, list) and all(type(each) is int and 0 <= each <= MOST for each in shape)
    if not whole or len(shape) > _DIMENSIONS:
        raise _wrong(where, f"a shape of at most {_DIMENSIONS} sizes of at most {MOST}")
    if not isinstance(values, list) or len(values) != math.prod(shape) or len(values) > MOST:
        raise _wrong(where, f"as many values as the shape says, at most {MOST}")
    hint = {"f": float, "i": int, "b": bool}[dtype.kind]
    return np.array([_read(hint, each, where) for each in values], dtype).reshape(shape)


def _wrong(where: str, allowed: str) -> JobError:
    return JobError(f"what is told of the round is no {where}; allowed: {allowed}", step=STEP)
