"""The files that people write for the compute network, checked as a whole: maps, policies, nodes, descriptors.

They stand beside jobs and federations, whose package knows nothing of them; what was found in a file has the same form.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fedcore.errors import did_you_mean
from fedcore.jobs.load import CheckedFile
from fedcore.jobs.problems import Problem
from fedcore.jobs.source import Source, read_source
from fedcore.jobs.validation import validate

KINDS = ("network", "policy", "node", "descriptor")

_OTHERS = ("kind", "catalogue", "members", "virtual", "engine")
"""Keys of jobs, participants, rosters and federations, which none of these files has."""


def network_kind(data: Any) -> str | None:
    """Which file of the compute network has these values; None when it is of another kind."""
    if not isinstance(data, dict) or any(key in data for key in _OTHERS):
        return None
    if "sites" in data:
        return "network"
    if "quantities" in data:
        return "descriptor"
    if "node" in data and "owner" in data:
        return "node"
    if any(key in data for key in ("weights", "hard", "aggregators", "fairness")):
        return "policy"
    # The participants of a federation are a list of files.
    return "policy" if isinstance(data.get("participants"), dict) else None


def check_network_file(path: str | Path) -> CheckedFile | None:
    """What was found in a map, policy, node or descriptor; None when the file is of another kind."""
    file = Path(path)
    source, problems = read_source(file)
    kind = network_kind(source.data)
    if kind is None:
        return None
    schema, more = _schema(kind)
    problems += more(source)
    model = None
    if not problems or kind != "descriptor":
        already = {problem.key for problem in problems}
        model, found = validate(source, schema)
        problems += [problem for problem in found if problem.key not in already]
    problems.sort(key=lambda problem: (problem.line or 0, problem.column or 0))
    return CheckedFile(file, kind, None if problems else model, tuple(problems))


def _schema(kind: str) -> tuple[type[BaseModel], Callable[[Source], list[Problem]]]:
    """The model of a kind, and what it does not say by itself."""
    if kind == "network":
        from fedcore.network.topology import TopologyFile

        return TopologyFile, _lost_ends
    if kind == "policy":
        from fedcore.network.policy import Policy

        return Policy, _nothing
    if kind == "node":
        from fedcore.network.node import NodeFile

        return NodeFile, _nothing
    from fedcore.network.descriptor import Descriptor, unknown_keys

    return Descriptor, unknown_keys


def _nothing(source: Source) -> list[Problem]:
    return []


def _lost_ends(source: Source) -> list[Problem]:
    """Links to sites that are not on the map."""
    sites, links = source.value(("sites",)), source.value(("links",))
    if not isinstance(sites, dict) or not isinstance(links, list):
        return []
    found = []
    for place, link in enumerate(links):
        ends = link.get("ends") if isinstance(link, dict) else None
        for at, end in enumerate(ends if isinstance(ends, list) else []):
            if isinstance(end, str) and end not in sites:
                why = f'no site is called "{end}"; {did_you_mean(end, sites)}'
                found.append(source.problem(("links", place, "ends", at), why))
    return found
