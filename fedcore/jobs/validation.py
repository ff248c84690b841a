"""A file's values against their model: every problem, each in the file's own words."""

from __future__ import annotations

import json
import re
from difflib import SequenceMatcher
from typing import Any, Literal, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from fedcore.errors import nearest
from fedcore.jobs import shape
from fedcore.jobs.problems import Keys, Problem, hint
from fedcore.jobs.source import Source

_FORMS = {
    "address": "host:port, such as localhost:8443",
    "device": "auto, cpu, cuda or cuda:N",
    "public_key": "an OpenSSH public key line that begins with ecdsa-sha2-nistp384",
    "use": f"a built-in name or {shape.IMPORT_PATH}",
}
"""What the patterns of the schemas ask for; a regular expression helps few readers."""

_SURE = 0.74
"""How alike a misspelt key must be to the nearest one for its value to be checked as that one's."""


def validate(source: Source, annotation: Any) -> tuple[Any, list[Problem]]:
    """Check a file's values against a model.

    Keys are checked first: a misspelt one is reported and then read as the nearest one, so that what stands
    under it is checked too. Afterwards pydantic checks the values, strictly, as it would a JSON document.

    Args:
        source: The file. Its misspelt keys are put right in place.
        annotation: The model, or a union of models.

    Returns:
        The validated object (None when there is any problem) and the problems, in the order of the lines.
    """
    keys = _KeyCheck(source)
    keys.check(annotation, ())
    problems = keys.problems
    try:
        found = TypeAdapter(annotation).validate_json(json.dumps(source.data), strict=True)
    except ValidationError as error:
        found = None
        problems += _from_pydantic(error, source, annotation, keys.unknowable)
    return (None if problems else found), problems


class _KeyCheck:
    """Finds unknown keys and wrong choices, and puts them right so that the values can be checked."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.unknowable: list[Keys] = []
        """Mappings whose model cannot be told; pydantic's view of them helps nobody."""

    def check(self, annotation: Any, keys: Keys) -> None:
        value = self.source.value(keys)
        picked = shape.choice(annotation)
        model = shape.plain(annotation)
        if picked is not None:
            model = self._choose(picked, keys) if isinstance(value, dict) else None
        if shape.is_model(model) and isinstance(value, dict) and model.model_config.get("extra") != "allow":
            self._keys(list(shape.fields(model)), keys)
        for key, inner, _ in list(shape.items(annotation, value)):
            self.check(inner, (*keys, key))

    def _keys(self, allowed: list[str], keys: Keys) -> None:
        for key in [key for key in self.source.value(keys) if key not in allowed]:
            problem = self.source.problem((*keys, key), "unknown key", **hint(key, allowed))
            self.problems.append(problem)
            near = problem.nearest
            sure = near is not None and SequenceMatcher(None, key, near).ratio() >= _SURE
            self.source.rename(keys, key, near if sure and near not in self.source.value(keys) else None)

    def _choose(self, picked: shape.Choice, keys: Keys) -> type[BaseModel] | None:
        mapping = self.source.value(keys)
        at = (*keys, picked.key)
        if picked.key not in mapping and not self._respell(picked, keys):
            self.unknowable.append(keys)
            self.problems.append(self.source.problem(at, "missing", allowed=picked.allowed))
            return None
        word = mapping[picked.key]
        model = picked.pick(word)
        if model is not None:
            return model
        near = nearest(word, picked.members) if isinstance(word, str) else None
        message = f"{shape.describe_value(word)} is not known"
        self.problems.append(self.source.problem(at, message, allowed=picked.allowed, nearest=near))
        if near is None:
            self.unknowable.append(keys)
            return None
        mapping[picked.key] = near
        return picked.members[near]

    def _respell(self, picked: shape.Choice, keys: Keys) -> bool:
        """Put a misspelt choosing key right, if there is one: without it no other key can be judged."""
        every = {key for model in picked.models for key in shape.fields(model)}
        for key in self.source.value(keys):
            if key not in every and nearest(key, every) == picked.key:
                self.problems.append(self.source.problem((*keys, key), "unknown key", **hint(key, every)))
                self.source.rename(keys, key, picked.key)
                return True
        return False


def _from_pydantic(
    error: ValidationError, source: Source, annotation: Any, unknowable: list[Keys]
) -> list[Problem]:
    problems: dict[str, Problem] = {}
    for entry in error.errors(include_url=False, include_input=False):
        place, kind = entry["loc"], entry["type"]
        if kind == "missing" and isinstance(place[-1], int):
            # A list of fixed length is too short: a problem of the list, not of the place that lacks a value.
            place, kind = place[:-1], "too_short"
        keys, inner = shape.follow(annotation, place)
        if any(keys[: len(parent)] == parent for parent in unknowable):
            continue
        problem = _problem(kind, entry["msg"], source, keys, inner)
        # Each member of `int | Literal["auto"]` reports on its own; one sentence covers them.
        problems.setdefault(problem.key, problem)
    return list(problems.values())


def _problem(kind: str, said: str, source: Source, keys: Keys, annotation: Any) -> Problem:
    value = source.value(keys)
    words = tuple(str(word) for word in shape.literals(annotation))
    if kind == "missing":
        needed = "" if words else f": {shape.describe(annotation)} is needed"
        return source.problem(keys, f"missing{needed}", allowed=words)
    if kind == "value_error":
        # A URL is refused for the password in it, which must not be repeated.
        shown = None if keys[-1:] == ("url",) or isinstance(value, dict | list) else value
        return source.problem(keys, said.removeprefix("Value error, "), value=shown)
    if kind == "string_pattern_mismatch":
        form = _FORMS.get(str(keys[-1]), "of the form that is needed")
        return source.problem(keys, f"{shape.describe_value(value)} is not {form}")
    if get_origin(shape.plain(annotation)) is Literal and isinstance(value, str):
        return source.problem(keys, f"{shape.describe_value(value)} is not allowed", **hint(value, words))
    if kind in ("too_short", "too_long") and isinstance(value, list):
        return source.problem(keys, f"must be {shape.describe(annotation)}, not of {len(value)}")
    if not words and not kind.endswith(("_type", "_parsing", "_from_float")):
        must = re.sub(r"^\w+ should ", "must ", said)
        return source.problem(keys, f"{must}, not {shape.describe_value(value)}")
    quotes = shape.plain(annotation) is str and isinstance(value, int | float)
    message = f"must be {shape.describe(annotation)}, not {shape.describe_value(value)}"
    return source.problem(keys, message + ("; put it in quotes" if quotes else ""), **hint(value, words))
