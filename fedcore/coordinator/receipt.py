"""The receipt of a run in words: every layer of protection, whether it was on, and what that means.

A layer that was off is listed as off. What the record does not tell is listed as unknown, never as on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedcore.coordinator.record import Record
from fedcore.coordinator.record_protection import protected
from fedcore.coordinator.wording_protection import promise_text
from fedcore.errors import DataError
from fedcore.trust import evidence

State = Literal["on", "off", "unknown"]

UPDATE_LAYERS = ("secure aggregation", "differential privacy")
"""The layers that protect a model update, as `layers` names them."""

_AT_SITES = {"secure_aggregation": "protection", "differential_privacy": "privacy"}
_OFF = {
    "secure_aggregation": "The coordinator can read the model update of every single site.",
    "differential_privacy": "Updates carry no noise: nothing bounds what they tell about one person.",
    "disclosure": "No site checked what it sends for small counts.",
}
_OFF_ANSWERS = {
    **_OFF,
    "secure_aggregation": "The coordinator can read each site’s part of an answer, its small cells kept back.",
    "differential_privacy": "Answers carry no noise: nothing bounds what all of them together tell about one person.",
}
"""The same, of an analytics job."""
_ANSWERS = {
    "secure_aggregation": ": the coordinator can read sums over the sites, not one site’s part of an answer",
    "differential_privacy": ": noise bounds what the answers tell about whom the neighbours differ in",
}
"""What a layer that was on means for the answers of an analytics job."""


@dataclass(frozen=True)
class Layer:
    """One layer of protection: whether it was on in this run, and what that means for the reader."""

    name: str
    state: State
    meaning: str


@dataclass(frozen=True)
class EvidenceLog:
    """The coordinator's log of what was sent and received.

    Args:
        entries: How many, each checked against the hash of the one before.
        last: SHA-256 of the last line, hex; a copy of it proves later that nothing was changed.
        problem: Why the log cannot be trusted; empty when it can.
    """

    entries: int = 0
    last: str = ""
    problem: str = ""


def read_evidence(run_dir: Path) -> EvidenceLog:
    """Check the logs in the run folder's `evidence/`.

    Args:
        run_dir: The run folder.
    """
    entries, last = 0, ""
    for file in sorted((run_dir / "evidence").glob("*.jsonl")):
        try:
            entries += sum(1 for _ in evidence.read(file))
        except DataError as error:
            return EvidenceLog(problem=error.message)
        except (OSError, ValueError, AttributeError):
            return EvidenceLog(problem=f"{file.name} cannot be read as a log")
        last = hashlib.sha256(_last_line(file)).hexdigest()
    return EvidenceLog(entries, last)


def layers(record: Record, log: EvidenceLog | None = None) -> list[Layer]:
    """Every layer of protection, those that were off included.

    Args:
        record: The run.
        log: The coordinator's evidence; the layer tells of the sites' logs only when absent.
    """
    # There is no update to protect where two parties work with each other.
    updates = (
        {}
        if record.kind in ("psi", "vertical")
        else {"secure_aggregation": None, "differential_privacy": None}
    )
    asked = {**updates, **record.protection}
    protections = [_protection(record, name, value) for name, value in asked.items() if name != "transport"]
    return [
        _separation(record),
        _transport(record),
        _policy(record),
        _evidence(record, log),
        *_between_parties(record),
        *protections,
        *_disclosure(record),
    ]


def _separation(record: Record) -> Layer:
    name = "separate sites"
    if record.engine == "unknown":
        return Layer(name, "unknown", "The record does not say where the participants ran.")
    if record.engine == "deployment":
        return Layer(
            name, "on", "Each participant ran in its own process beside its own data; rows did not travel."
        )
    where = "were simulated by one party" if record.engine == "simulation" else "ran on one machine"
    text = f"All participants {where} (engine {record.engine}): a trial of the method, not a separation."
    if record.baselines and record.baselines.pooled:
        text += " For the comparison, one model was also trained on all rows together."
    return Layer(name, "off", text)


def _transport(record: Record) -> Layer:
    name, said = "encrypted transport", record.protection.get("transport")
    if said is not None:
        return (
            Layer(name, "off", "Messages travelled in the clear.")
            if _none(said)
            else Layer(name, "on", f"{said}.")
        )
    if record.engine == "unknown":
        return Layer(name, "unknown", "The record does not say how messages travelled.")
    if record.engine == "deployment":
        text = "The deployment engine uses TLS, and each participant proves its identity with its own key."
        return Layer(name, "on", text)
    return Layer(name, "off", "Nothing crossed a network in this run, and nothing was encrypted.")


def _between_parties(record: Record) -> list[Layer]:
    """How the two parties of a protocol were connected, and what the coordinator saw of it."""
    if record.kind not in ("psi", "vertical"):
        return []
    how = _how(record)
    name = "connection of the parties"
    both = "each accepts the other's pinned key only"
    texts: dict[str, tuple[State, str]] = {
        "memory": ("off", "The parties met in the memory of one process; nothing was encrypted."),
        "direct": ("on", f"Direct, TLS; {both}. The coordinator carries nothing of it."),
        "relay": (
            "on",
            f"Through the coordinator's relay, encrypted end to end; {both}. The relay sees sizes and times.",
        ),
    }
    if record.engine == "simulation" and how == "direct":
        texts["direct"] = ("on", "Over loopback, TLS; keys that no file pins came from the coordinator.")
    state, meaning = texts.get(str(how), ("unknown", "The record does not say how the parties met."))
    told = "sizes, costs and commitments"
    if isinstance(record.raw.get("intersection"), int):
        told += ", and how many keys match"
    kept = "no key, no row" if record.kind == "psi" else "no key, no row, no label, no model, no score"
    hidden = Layer("keys and rows at the parties", "on", f"The coordinator was told {told}; {kept}.")
    return [Layer(name, state, meaning), hidden]


def _how(record: Record) -> str | None:
    """How the parties met; of several pairs, that which protects least."""
    meeting, all_ = record.raw.get("meeting"), record.raw.get("meetings")
    if isinstance(meeting, Mapping):
        return str(meeting.get("how"))
    found = {str(each) for each in all_.values()} if isinstance(all_, Mapping) else set()
    return next((each for each in ("memory", "relay", "direct") if each in found), None)


def _policy(record: Record) -> Layer:
    state, where = _at_sites(record, "policy")
    purpose = record.job.get("purpose")
    asked = f" (stated purpose: {purpose})" if purpose else ""
    text = (
        f"Each site answers only what its own policy allows: kind of job, data set, columns, purpose{asked}."
    )
    meaning = {"on": text, "off": f"Not every site checked the request: {where}."}
    return Layer("site policy", state, meaning.get(state, "No site’s receipt is in the record."))


def _evidence(record: Record, log: EvidenceLog | None) -> Layer:
    name = "evidence log"
    kept = Counter(member.layers["evidence"] for member in record.members if "evidence" in member.layers)
    sites = ""
    if kept:
        what = {"digest": "with a digest of every release", "counts": "with sizes only"}
        how = " or ".join(what.get(each, each) for each in kept)
        sites = f"Each site keeps its own log, {how}."
    if log is None:
        return Layer(name, "on" if kept else "unknown", sites or "No site’s receipt is in the record.")
    if log.problem:
        return Layer(name, "off", f"The coordinator’s log cannot be trusted: {log.problem}. {sites}".strip())
    if not log.entries:
        return Layer(name, "off", f"The run folder holds no log of what was sent. {sites}".strip())
    chain = (
        f"The coordinator’s log has {log.entries} entries, chained by SHA-256; the last is {log.last[:16]}…."
    )
    return Layer(name, "on", f"{chain} {sites}".strip())


def _protection(record: Record, name: str, value: Any) -> Layer:
    shown = name.replace("_", " ")
    if _none(value) or (isinstance(value, Mapping) and _none(value.get("protocol", value))):
        off = _OFF_ANSWERS if record.kind == "analytics" else _OFF
        return Layer(shown, "off", off.get(name, "Not used in this run."))
    if isinstance(value, Mapping) and value.get("level") == "client":
        value = promise_text(value)
    elif isinstance(value, Mapping):
        value = ", ".join(f"{str(key).replace('_', ' ')} {each}" for key, each in value.items())
    state, where = _at_sites(record, _AT_SITES.get(name, name))
    if state == "off":
        return Layer(shown, "off", f"Asked for ({value}), but not applied everywhere: {where}.")
    if record.kind == "analytics":
        return Layer(shown, "on", f"{value}{_ANSWERS.get(name, '')}.")
    if name == "secure_aggregation":
        value = (
            f"{value}: the coordinator can read the sum over the sites, not one site’s update{_sums(record)}"
        )
    if name == "differential_privacy":
        value = f"{value}: clipping and noise bound what the updates tell"
    return Layer(shown, "on", f"{value}.")


def _sums(record: Record) -> str:
    told = protected(record.raw)
    if told is None or not told.exchanges:
        return ""
    dropped = len({party for _, party, _ in told.dropped})
    lost = f"; {dropped} participant{'s' * (dropped != 1)} dropped out of some" if dropped else ""
    return f". {told.sums} of {len(told.exchanges)} exchanges gave a sum{lost}"


def _disclosure(record: Record) -> list[Layer]:
    state, where = _at_sites(record, "disclosure")
    if state == "unknown":
        return []
    on = "Sites withhold what falls below their minimum counts."
    off = _OFF["disclosure"] if where.startswith("0 of") else f"Not every site checked small counts: {where}."
    return [Layer("disclosure control", state, on if state == "on" else off)]


def _at_sites(record: Record, layer: str) -> tuple[State, str]:
    """Whether a layer of the release gate was on at all sites that sent a receipt, and at how many."""
    said = [member.layers[layer] for member in record.members if layer in member.layers]
    if not said:
        return "unknown", ""
    on = sum(not _none(each) for each in said)
    return (
        "on" if on == len(said) else "off"
    ), f"on at {on} of {len(said)} sites" if on else f"0 of {len(said)} sites"


def _none(value: Any) -> bool:
    return value is None or value is False or value in ("none", "off", "")


def _last_line(file: Path) -> bytes:
    lines = file.read_bytes().splitlines(keepends=True)
    return lines[-1] if lines else b""
