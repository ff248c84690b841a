"""A small federation on a compute network, without a probe: five sites, a descriptor each, a map and a policy."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fedcore.coordinator.grids.evidence import EvidenceGrid
from fedcore.engines.embedded import FIRST_NODE, EmbeddedGrid
from fedcore.jobs.participant import Participant
from fedcore.network.descriptor import Descriptor, describe, sign_descriptor, write_descriptor
from fedcore.network.quantity import Quantity
from fedcore.participant import nodes
from fedcore.participant.nodes import LOG
from fedcore.trust import evidence
from fedcore.trust.identity import Identity, new_identity
from tests.fedcore.network.nodes import found, node_file
from tests.sites import Study, blobs, write_federation, write_job, write_site

SITES = ("s0", "s1", "s2")


class Placed(Study):
    """Sites s0, s1, s2 in a row; participant i stands at site i mod 3 and is slower the higher its number."""

    def __init__(self, folder: Path, sites: int = 5, km: float = 400.0, linked: bool = True) -> None:
        super().__init__(folder, sites)
        self.keys: dict[str, Identity] = {}
        for i, name in enumerate(self.names):
            (folder / "keys").mkdir(exist_ok=True)
            self.keys[name] = new_identity(folder / "keys" / f"{name}.key", name)
            self.site(name, [self.node(name)], rows=40 + 10 * i, seed=i)
        self.map(km, linked)
        self.policy()
        self.federation = write_federation(folder, self.names, extra="network: {map: map.json, root: s0}\n")
        self.job = write_job(folder, placement="policy.yaml")

    def site(
        self, name: str, described: Iterable[Descriptor], rows: int = 40, seed: int = 0, more: str = ""
    ) -> None:
        """Write a participant's file with its nodes."""
        files = []
        for each in described:
            files.append(f"nodes/{name}-{each.node}.json")
            write_descriptor(each, self.folder / files[-1])
        told = f"{more}identity: keys/{name}.key\nnodes: [{', '.join(files)}]\n"
        write_site(self.folder, name, blobs(rows, seed), extra=told)

    def node(
        self,
        name: str,
        *,
        at: datetime | None = None,
        quantities: dict[str, Quantity] | None = None,
        signer: Identity | None = None,
        **changes: Any,
    ) -> Descriptor:
        """A signed descriptor; `changes` are of the node's file."""
        i = self.names.index(name) if name in self.names else 0
        told = {"owner": name, "site": SITES[i % 3], **changes}
        now = at or datetime.now(UTC)
        whole = describe(node_file(**told), quantities or found(100.0 / (1 + i)), at=now)
        return sign_descriptor(whole, signer or self.keys[name])

    def map(self, km: float = 400.0, linked: bool = True, **aggregator: Any) -> None:
        role = {"ingress_mbit_s": 1000.0, "cost": 0.01, "kwh": 0.001, **aggregator}
        sites = {
            name: {
                "tier": "cloud",
                "jurisdiction": "CN",
                "carbon_g_per_kwh": 300.0 + 100 * i,
                "aggregator": role,
            }
            for i, name in enumerate(SITES)
        }
        ends = list(itertools.pairwise(SITES)) if linked else [("s1", "s2")]
        links = [{"ends": list(pair), "km": km, "mbit_s": 1000.0} for pair in ends]
        (self.folder / "map.json").write_text(json.dumps({"name": "row", "sites": sites, "links": links}))

    def policy(self, **changes: Any) -> None:
        told = {"name": "small", "aggregators": {"standby": 0}, **changes}
        (self.folder / "policy.yaml").write_text(json.dumps(told))

    def book(self, name: str) -> list[dict[str, Any]]:
        """The events of an owner's leases."""
        return list(evidence.read(self.folder / ".fedcore" / name / LOG))

    def still_leased(self) -> set[str]:
        """Ids of leases that nobody gave back and no newer version ended."""
        held = set()
        for name in self.names:
            if not (self.folder / ".fedcore" / name / LOG).exists():
                continue
            open_: dict[str, int] = {}
            for entry in self.book(name):
                if entry["event"] == "granted":
                    open_[entry["lease"]["id"]] = entry["lease"]["version"]
                elif entry["event"] == "bound":
                    newest = open_[entry["id"]]
                    open_ = {key: version for key, version in open_.items() if version >= newest}
                elif entry["event"] in ("released", "expired"):
                    open_.pop(entry["id"], None)
            held |= set(open_)
        return held


def placements(run: Any) -> list[dict[str, Any]]:
    """What the rounds' records say of their plans."""
    return [record["placement"] for record in run.json["rounds"]]


def answers_of(
    monkeypatch: pytest.MonkeyPatch, what: str, change: Callable[[Participant, Any, Any], Any]
) -> None:
    """Let participants answer messages about nodes otherwise.

    Args:
        what: `offers`, `lease`, `bind` or `release`.
        change: Gets the participant, what it was asked and what it answers; gives what it answers instead.
    """
    honest = nodes._ANSWERS[what]

    def answer(participant: Participant, body: Any, key: str) -> Any:
        return change(participant, body, honest(participant, body, key))  # type: ignore[operator]

    monkeypatch.setitem(nodes._ANSWERS, what, answer)


def offline(monkeypatch: pytest.MonkeyPatch, study: Study, gone: Callable[[str, int], Iterable[str]]) -> None:
    """Let participants be away.

    Args:
        gone: Gets the phase and the round; gives the names of who is not online.
    """
    phase = ["prepare", 0]
    begin, everybody = EvidenceGrid.begin, EmbeddedGrid.get_node_ids

    def begun(self: EvidenceGrid, name: str, number: int) -> Any:
        phase[:] = name, number
        return begin(self, name, number)

    def here(self: EmbeddedGrid) -> list[int]:
        away = {FIRST_NODE + study.names.index(name) for name in gone(*phase)}  # type: ignore[arg-type]
        return [node for node in everybody(self) if node not in away]

    monkeypatch.setattr(EvidenceGrid, "begin", begun)
    monkeypatch.setattr(EmbeddedGrid, "get_node_ids", here)


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)
