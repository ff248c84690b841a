"""A YAML file as plain values that remember the line and column they came from.

YAML 1.2 as JSON knows it: mappings with text keys, lists, text, numbers, booleans and null. A date stays
text, `yes` and `on` are text, `010` is ten. Tags (`!!python/...`), merge keys, NaN and infinity, and keys
that stand twice are refused.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fedcore.jobs.problems import Keys, Problem, spell

MAX_BYTES = 4 * 10**6
"""No hand-written file is larger; a data file named by mistake is."""

MAX_VALUES = 100_000
"""Upper bound on values, so that aliases of aliases cannot fill the memory."""

_TAG = "tag:yaml.org,2002:"
_TYPED = {_TAG + name for name in ("null", "bool", "int", "float")}
_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories of letters that nobody types: control, half a surrogate pair, line separators."""

_TEXT = {_TAG + name for name in ("str", "timestamp", "value")}


@dataclass
class Source:
    """A file's values and their places.

    Args:
        file: As the person named it.
        data: The values; None when the file has none.
        places: Line and column (from 1) of each value, and of its key where it has one.
    """

    file: Path
    data: Any = None
    places: dict[Keys, tuple[int, int]] = field(default_factory=dict)

    def value(self, keys: Keys) -> Any:
        """The value at `keys`, or None when the file has no such value."""
        at = self.data
        for key in keys:
            in_list = isinstance(at, list) and isinstance(key, int) and key < len(at)
            if not in_list and not (isinstance(at, dict) and key in at):
                return None
            at = at[key]
        return at

    def problem(self, keys: Keys, message: str, **hints: Any) -> Problem:
        """A problem with the value at `keys`, placed at the nearest parent when nothing stands there."""
        known = keys
        while known and known not in self.places:
            known = known[:-1]
        line, column = self.places.get(known, (1, 1))
        value = self.value(keys)
        hints.setdefault("value", None if isinstance(value, dict | list) else value)
        return Problem(self.file, line, column, spell(keys), message=message, **hints)

    def rename(self, parent: Keys, old: str, new: str | None) -> None:
        """Put what stands under the key `old` under `new`, or drop it, so that the rest can be checked."""
        mapping = self.value(parent)
        value = mapping.pop(old)
        if new is None:
            return
        mapping[new] = value
        depth = len(parent)
        for keys in [keys for keys in self.places if keys[: depth + 1] == (*parent, old)]:
            self.places[(*parent, new, *keys[depth + 1 :])] = self.places[keys]


def read_source(file: Path) -> tuple[Source, list[Problem]]:
    """Read a YAML file.

    Args:
        file: Its path.

    Returns:
        The file's values, `data` None when it cannot be read at all, and what is wrong with it as YAML.
    """
    source = Source(file)
    text = _text(file)
    if isinstance(text, Problem):
        return source, [text]
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        return source, [_syntax(file, error)]
    except YAMLError as error:
        return source, [Problem(file, None, None, "", None, f"not YAML: {_first_line(error)}")]
    except RecursionError:
        return source, [Problem(file, None, None, "", None, "not usable: nested too deeply")]
    if root is None:
        return source, [Problem(file, 1, 1, "", None, "the file is empty")]
    problems: list[Problem] = []
    reader = _Reader(source, yaml, problems)
    try:
        source.data = reader.build(root, ())
    except _EndlessError as error:
        return Source(file), [Problem(file, 1, 1, "", None, str(error))]
    return source, problems


def _text(file: Path) -> str | Problem:
    def failed(message: str, near: str | None = None) -> Problem:
        return Problem(file, None, None, "", None, message, nearest=near)

    try:
        if file.is_dir():
            return failed("is a folder; name a YAML file in it")
        if file.is_file() and file.stat().st_size > MAX_BYTES:
            return failed(f"is larger than {MAX_BYTES // 10**6} MB, so it is hardly a job or federation")
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return failed("no such file", near_file(file))
    except UnicodeDecodeError as error:
        return failed(f"not UTF-8 text: byte {error.start} cannot be read; save the file as UTF-8")
    except OSError as error:
        return failed(f"cannot be read: {error.strerror}")


def near_file(file: Path) -> str | None:
    """The path beside the missing `file` that was probably meant, in the same form."""

    def alike(name: str, other: str) -> float:
        return SequenceMatcher(None, name, other).ratio()

    try:
        there = [entry for entry in file.parent.iterdir() if alike(entry.stem, file.stem) >= 0.6]
    except OSError:
        return None
    best = max(there, key=lambda entry: (alike(entry.name, file.name), entry.name), default=None)
    return str(best) if best else None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _syntax(file: Path, error: MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    said = "; ".join(str(part) for part in (error.context, error.problem) if part)
    # ruamel.yaml's notes teach its Python interface, which does not help the author of a file.
    line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
    return Problem(file, line, column, "", None, f"not YAML: {said}")


class _EndlessError(Exception):
    """The file's aliases never end or give too many values."""


class _Reader:
    """Turns the nodes of one file into values and notes where each stood."""

    def __init__(self, source: Source, yaml: Any, problems: list[Problem]) -> None:
        self.source = source
        self.constructor = yaml.constructor
        self.problems = problems
        self.open: set[int] = set()
        self.count = 0

    def build(self, node: Node, keys: Keys) -> Any:
        self.count += 1
        if id(node) in self.open:
            raise _EndlessError("not usable: an alias (*name) contains itself")
        if self.count > MAX_VALUES:
            raise _EndlessError(f"not usable: more than {MAX_VALUES} values")
        self.source.places.setdefault(keys, _place(node))
        self.open.add(id(node))
        value: Any
        if isinstance(node, MappingNode) and node.tag == _TAG + "map":
            value = dict(self._pairs(node, keys))
        elif isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
            value = [self.build(item, (*keys, index)) for index, item in enumerate(node.value)]
        elif isinstance(node, ScalarNode):
            value = self._scalar(node, keys)
        else:
            value = None
            self._problem(node, keys, f"the tag {node.tag} is not used in these files; remove it")
        self.open.discard(id(node))
        return value

    def _pairs(self, node: MappingNode, keys: Keys) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._problem(key_node, keys, "a key must be text, not a list or a mapping")
                continue
            key = str(key_node.value)
            if _unseen(key) or "\n" in key:
                self._problem(key_node, keys, "a key holds a control character; remove it")
                continue
            if key in seen:
                self._problem(
                    key_node,
                    (*keys, key),
                    f"this key already stands in line {seen[key]}; keep one of the two",
                )
                continue
            seen[key] = key_node.start_mark.line + 1
            # The place of a setting is its key: a misspelt key and an empty value are found there too.
            self.source.places[(*keys, key)] = _place(key_node)
            yield key, self.build(value_node, (*keys, key))

    def _scalar(self, node: ScalarNode, keys: Keys) -> Any:
        if node.tag in _TEXT:
            text = str(node.value)
            if _unseen(text):
                self._problem(node, keys, "this text holds a control character; remove it")
                return ""
            return text
        what = str(node.tag).removeprefix(_TAG)
        if node.tag not in _TYPED:
            self._problem(node, keys, f"the tag or word {what!r} is not used in these files; remove it")
            return None
        try:
            value = self.constructor.construct_object(node, deep=True)
        except (ValueError, KeyError, YAMLError):
            value = None
            self._problem(node, keys, f"this is no {what}", node.value)
        if isinstance(value, float) and not math.isfinite(value):
            self._problem(node, keys, "must be a finite number", node.value)
            return 0.0
        return value

    def _problem(self, node: Node, keys: Keys, message: str, value: Any = None) -> None:
        line, column = _place(node)
        self.problems.append(Problem(self.source.file, line, column, spell(keys), value, message))


def _unseen(text: str) -> bool:
    return any(unicodedata.category(letter) in _UNSEEN and letter not in "\t\r\n" for letter in text)


def _place(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
