"""The shape of a file's model: which keys may stand where, which member of a choice is meant, what a value
must be in words a person uses."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedcore.jobs.problems import Keys

IMPORT_PATH = "package.module:Class"
"""How a class of one's own is named where a built-in name may also stand."""

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


@dataclass(frozen=True)
class Choice:
    """Models of which one key's value selects one.

    Args:
        key: The key, such as `connector` or `use`.
        members: The models by that value.
        open: The model of every other value (`package.module:Class`); None when there is no other.
    """

    key: str
    members: dict[str, type[BaseModel]]
    open: type[BaseModel] | None

    @property
    def models(self) -> tuple[type[BaseModel], ...]:
        """All its models."""
        return (*self.members.values(), self.open) if self.open else tuple(self.members.values())

    @property
    def allowed(self) -> tuple[str, ...]:
        """What the key may say."""
        return (*self.members, IMPORT_PATH) if self.open else tuple(self.members)

    def pick(self, value: Any) -> type[BaseModel] | None:
        """The model that `value`, the value of the key, selects."""
        if isinstance(value, str) and value in self.members:
            return self.members[value]
        return self.open if isinstance(value, str) and ":" in value else None


def plain(annotation: Any) -> Any:
    """The annotation without `Annotated[...]` and without `| None`."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif _is_union(annotation) and type(None) in get_args(annotation):
            rest = [part for part in get_args(annotation) if part is not type(None)]
            if len(rest) > 1:
                return Union[tuple(rest)]  # noqa: UP007 - the members are known only at run time
            annotation = rest[0]
        else:
            return annotation


def is_model(annotation: Any) -> bool:
    """Whether the annotation is a model."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


@cache
def fields(model: type[BaseModel]) -> dict[str, Any]:
    """The annotations of a model's keys, by the key as it is written in a file."""
    hints = get_type_hints(model, include_extras=True)
    return {field.alias or name: hints[name] for name, field in model.model_fields.items()}


def choice(annotation: Any) -> Choice | None:
    """The choice that a union of models makes; None for anything else."""
    annotation = plain(annotation)
    if not _is_union(annotation):
        return None
    models = [plain(part) for part in get_args(annotation)]
    if not all(is_model(model) for model in models):
        return None
    # A union chosen by a function (a task's) is chosen by the key `use`, by the house's convention.
    key = next(
        (
            key
            for key in ("connector", "kind", "use", "level")
            if all(key in fields(model) for model in models)
        ),
        "",
    )
    members: dict[str, type[BaseModel]] = {}
    other = None
    for model in models:
        words = literals(fields(model)[key]) if key else ()
        members.update(dict.fromkeys((str(word) for word in words), model))
        other = other if words else model
    return Choice(key, members, other)


def literals(annotation: Any) -> tuple[Any, ...]:
    """The words of a `Literal`, also of one that stands in a union; empty when there is none."""
    annotation = plain(annotation)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if _is_union(annotation):
        return tuple(word for part in get_args(annotation) for word in literals(part))
    return ()


def items(annotation: Any, value: Any) -> Iterator[tuple[str | int, Any, Any]]:
    """Key, annotation and value of what stands in `value`, as far as it has the annotation's shape."""
    annotation = plain(annotation)
    picked = choice(annotation)
    if picked is not None:
        annotation = picked.pick(value.get(picked.key)) if isinstance(value, dict) else None
    if is_model(annotation) and isinstance(value, dict):
        known = fields(annotation)
        yield from ((key, known[key], item) for key, item in value.items() if key in known)
    elif get_origin(annotation) is dict and isinstance(value, dict):
        inner = get_args(annotation)[1]
        yield from ((key, inner, item) for key, item in value.items())
    elif get_origin(annotation) is tuple and isinstance(value, list):
        yield from ((index, _element(annotation, index), item) for index, item in enumerate(value))


def follow(annotation: Any, location: tuple[str | int, ...]) -> tuple[Keys, Any]:
    """The keys in the file, and the annotation there, of a location that pydantic reports.

    pydantic's locations also name members of unions (`task.tabular-classifier.target`), which no file does.
    """
    keys: list[str | int] = []
    for part in location:
        annotation = plain(annotation)
        picked = choice(annotation)
        if picked is not None:
            annotation = picked.members.get(str(part), picked.open)
        elif is_model(annotation):
            keys.append(_written(annotation, part))
            annotation = fields(annotation).get(str(keys[-1]), Any)
        elif get_origin(annotation) is dict:
            if part == "[key]":
                break
            keys.append(part)
            annotation = get_args(annotation)[1]
        elif get_origin(annotation) is tuple and isinstance(part, int):
            keys.append(part)
            annotation = _element(annotation, part)
        else:
            break
    return tuple(keys), annotation


def _written(model: type[BaseModel], name: str | int) -> str:
    field: FieldInfo | None = model.model_fields.get(str(name))
    return field.alias if field is not None and field.alias else str(name)


def _element(annotation: Any, index: int) -> Any:
    inner = get_args(annotation)
    if len(inner) == 2 and inner[1] is Ellipsis:
        return inner[0]
    return inner[index] if index < len(inner) else Any


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def describe(annotation: Any) -> str:
    """What a value of this annotation is, in words.

    Example:
        >>> describe(tuple[int, ...])
        'a list of whole numbers'
    """
    annotation = plain(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if is_model(annotation) or choice(annotation) is not None or origin is dict:
        return "a mapping (keys and values)"
    if origin is Literal:
        return " or ".join(str(word) for word in inner)
    if _is_union(annotation):
        return " or ".join(describe(part) for part in inner)
    if origin is tuple:
        many = describe(inner[0]).removeprefix("a ")
        many += "s" if many in ("whole number", "number", "path") else ""
        return f"a list of {many}" if inner[1] is Ellipsis else f"a list of {len(inner)} {many}"
    return "a value"


def describe_value(value: Any) -> str:
    """A value of a file in words: what it is, and itself when it is short."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return f'the text "{value}"' if len(value) <= 60 else "a text"
    return f"the number {value}"
