"""Frozen dataclasses as JSON and back, checked by their annotations.

Understood: other records, tuples of one kind, dictionaries by text, arrays of floats, numbers, texts, None.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError

Floats = npt.NDArray[np.float64]


class Record:
    """JSON both ways for a frozen dataclass of this module."""

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, texts and numbers; a number that is not finite becomes None."""
        return {each.name: _plain(getattr(self, each.name)) for each in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What `as_dict` gave.

        Raises:
            DataError: If a field is missing, unknown or of another type; the message names it.
        """
        return typing.cast(Self, _read(cls, found, cls.__name__))


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.as_dict()
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(wanted: Any, found: Any, where: str) -> Any:
    """`found`, as JSON gives it, as the annotated type."""
    if isinstance(wanted, type) and issubclass(wanted, Record):
        return _record(wanted, found, where)
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        some = next(each for each in inner if each is not type(None))
        return None if found is None else _read(some, found, where)
    if origin is Literal:
        return found if found in inner else _refuse(where, found, f"is none of {', '.join(map(str, inner))}")
    if origin is np.ndarray:
        return _array(found, where)
    if origin is tuple:
        _expect(found, (list, tuple), where, "a list")
        return tuple(_read(inner[0], each, f"{where}[{place}]") for place, each in enumerate(found))
    if origin is dict:
        _expect(found, (dict,), where, "an object")
        return {str(key): _read(inner[1], each, f"{where}.{key}") for key, each in found.items()}
    if wanted is Any:
        return found
    if wanted is float:
        if found is None:
            return math.nan
        _expect(found, (int, float), where, "a number")
        return float(found)
    _expect(found, (wanted,), where, f"of type {wanted.__name__}")
    return found


def _record(wanted: type[Record], found: Any, where: str) -> Record:
    _expect(found, (dict,), where, "an object")
    fields = {each.name: each for each in dataclasses.fields(wanted)}  # type: ignore[arg-type]
    if unknown := sorted(set(found) - set(fields)):
        raise DataError(f"result: {where} has the unknown fields {', '.join(unknown)}")
    types_ = typing.get_type_hints(wanted)
    try:
        return wanted(**{key: _read(types_[key], each, f"{where}.{key}") for key, each in found.items()})
    except TypeError as error:
        raise DataError(f"result: {where} lacks a field ({error})") from error


def _array(found: Any, where: str) -> Floats:
    try:
        return np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"result: {where} is no table of numbers ({error})") from error


def _expect(found: Any, kinds: tuple[type, ...], where: str, told: str) -> None:
    if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
        _refuse(where, found, f"is not {told}")


def _refuse(where: str, found: Any, why: str) -> typing.NoReturn:
    raise DataError(f"result: {where} {why} but {type(found).__name__}; it was not written by fedcore")
