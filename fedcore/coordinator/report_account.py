"""The report's sections on how the run went: protection, cost, losses, participants, job, repetition."""

from __future__ import annotations

import hashlib
import io
import platform
import shlex
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from fedcore.coordinator.plots import stacked_bars
from fedcore.coordinator.receipt import layers, read_evidence
from fedcore.coordinator.record import Record, Site, finite
from fedcore.coordinator.report_results import MANY, quantile
from fedcore.drawing.markup import Markup, element, join
from fedcore.drawing.numbers import bytes_text, count_text, people, seconds_text
from fedcore.drawing.page import figure, keys, section, short, table

_MOST_LOST = 60
_MOST_TEXT = 40_000
_PACKAGES = ("fedcore", "flwr", "torch", "numpy")


def protection(record: Record, run_dir: Path | None) -> Markup:
    """Every layer of protection, on or off."""
    rows = [
        element(
            "tr",
            element("th", layer.name.capitalize(), scope="row"),
            element("td", element("span", layer.state, class_=f"state {layer.state}")),
            element("td", layer.meaning),
        )
        for layer in layers(record, read_evidence(run_dir) if run_dir else None)
    ]
    return section("What was protected", element("table", element("tbody", *rows), class_="layers"))


def cost(record: Record) -> Markup:
    """Bytes and seconds per round."""
    if not record.rounds:
        return Markup("")
    rounds = [each.number for each in record.rounds]
    pictures = []
    for what, title, text in (("bytes", "Traffic", bytes_text), ("seconds", "Time", seconds_text)):
        totals = record.total("bytes" if what == "bytes" else "seconds")
        if not totals:
            continue
        per_round = [each.bytes if what == "bytes" else each.seconds for each in record.rounds]
        phases = {
            _PHASES.get(name, name): [finite(one.get(name)) or 0.0 for one in per_round] for name in totals
        }
        whole = f"{text(sum(totals.values()))} in all, {text(sum(totals.values()) / len(rounds))} per round"
        legend = keys(
            [(f"phase-{i % 4}", f"{_PHASES.get(n, n)}, {text(v)}") for i, (n, v) in enumerate(totals.items())]
        )
        picture = stacked_bars(rounds, phases, describe=f"{title}: {whole}", text=text)
        pictures.append(element("div", figure(picture, caption=f"{title} per round", note=whole), legend))
    return section("What it cost", element("div", *pictures, class_="multiples")) if pictures else Markup("")


def lost(record: Record) -> Markup:
    """Participants left out before training and those whose reply did not count, with the reasons."""
    before: list[Markup] = []
    if record.left_out:
        left_out = [[short(e.party, 40), short(e.reason, 300)] for e in record.left_out[:_MOST_LOST]]
        intro = f"{people(len(record.left_out)).capitalize()} could not take part and did not train."
        before = [element("p", intro), table(["Participant", "Reason"], left_out, words=2)]
    if not record.rounds and not before:
        return Markup("")
    if not record.lost:
        text = "None in training: every participant that was asked replied in time, in every round."
        return section("Lost participants", *before, element("p", text) if record.rounds else "")
    parties = Counter(each.party for each in record.lost)
    rounds = len({each.round for each in record.lost})
    intro = f"{people(len(parties)).capitalize()} did not count in {people(rounds, 'round')}. "
    intro += "The rounds went on with the replies that came."
    rows = [
        [str(e.round), short(e.party, 40), e.step, short(e.reason, 300)] for e in record.lost[:_MOST_LOST]
    ]
    parts = [*before, element("p", intro), table(["Round", "Participant", "Step", "Reason"], rows, words=4)]
    if len(record.lost) > _MOST_LOST:
        left = len(record.lost) - _MOST_LOST
        parts.append(element("p", f"{left} more losses stand in result.json.", class_="quiet"))
    return section("Lost participants", *parts)


def participants(record: Record) -> Markup:
    """Who took part, with how many rows and at what cost."""
    if not record.members:
        return section(
            "Participants", element("p", "None had answered when the run stopped.", class_="quiet")
        )
    if len(record.members) > MANY:
        return section("Participants", *_many_participants(record))
    reports: dict[str, list[Site]] = {}
    for each in record.rounds:
        for name, site in each.replied.items():
            reports.setdefault(name, []).append(site)
    rows = []
    for member in record.members:
        own = reports.get(member.name, [])
        counted = [count_text(value) for value in (member.rows, member.train_rows, member.validation_rows)]
        taken = f"{len(own)} of {len(record.rounds)}"
        way = [taken, _typical(own), _sent(own, "up"), _sent(own, "down")] if record.rounds else []
        rows.append([short(member.name, 40), *counted, *way])
    head = ["Participant", "rows", "for training", "for validation"]
    head += ["rounds", "training, median", "sent", "received"] if record.rounds else []
    warnings = [element("p", warning, class_="notice") for warning in record.warnings[:_MOST_LOST]]
    return section("Participants", *warnings, table(head, rows))


def job(record: Record) -> Markup:
    """The job, with every default filled in."""
    if not record.job:
        return Markup("")
    stream = io.StringIO()
    writer = YAML()
    writer.Representer = _Representer
    writer.default_flow_style = False
    writer.dump(record.job, stream)
    written = stream.getvalue()
    if len(written) > _MOST_TEXT:
        written = written[:_MOST_TEXT] + "\n… cut here; the whole job stands in result.json\n"
    text = element("pre", element("code", written))
    return section(
        "The job", element("details", element("summary", "Everything the job says, with all defaults"), text)
    )


def reproduce(record: Record, run_dir: Path | None) -> Markup:
    """The command that repeats the run, the model's digest, and the versions."""
    files = [_file(run_dir, name) for name in ("job.yaml", "federation.yaml")]
    command = f"fedcore run {files[0]} --federation {files[1]} --engine {shlex.quote(record.engine)}"
    seed = record.job.get("seed")
    given = f"With the seed {seed} that the job names" if seed is not None else "With the same job"
    words = [f"{given}, the same data gives the same model."]
    if run_dir and (run_dir / "job.yaml").exists():
        words.append(
            "The files are in this run’s folder; paths in them are relative to where the originals lay."
        )
    facts: list[tuple[str, object]] = [("Run", record.run or "–"), ("Started", record.started or "–")]
    model = run_dir / str(record.model.get("file") or "model.safetensors") if run_dir else None
    if model and run_dir and model.is_file() and model.resolve().is_relative_to(run_dir.resolve()):
        size = finite(record.model.get("bytes")) or float(model.stat().st_size)
        facts.append(
            ("Model", join([f"{model.name}, {bytes_text(size)}, SHA-256 ", element("code", _sha256(model))]))
        )
    facts += _versions(record)
    rows = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in facts]
    return section(
        "How to repeat it",
        element("p", " ".join(words)),
        element("pre", element("code", command)),
        element("table", element("tbody", *rows), class_="facts-table"),
    )


class _Representer(RoundTripRepresenter):
    """Writes `null` for None, where ruamel leaves the place empty."""


_Representer.add_representer(
    type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)

_PHASES = {
    "down": "to the participants",
    "up": "from the participants",
    "train": "training",
    "evaluate": "evaluation",
    "coordinator": "the coordinator itself",
}


def _many_participants(record: Record) -> list[Markup]:
    shares = [("smallest", 0.0), ("25 %", 0.25), ("median", 0.5), ("75 %", 0.75), ("largest", 1.0)]
    columns = {
        "rows": [m.rows for m in record.members],
        "for training": [m.train_rows for m in record.members],
        "for validation": [m.validation_rows for m in record.members],
    }
    rows = []
    for name, values in columns.items():
        known = [float(value) for value in values if value is not None]
        if known:
            cells = [count_text(quantile(known, share)) for _, share in shares]
            rows.append([name, *cells, count_text(sum(known))])
    intro = f"{people(len(record.members)).capitalize()}; each one’s rows stand in result.json."
    return [element("p", intro), table(["per participant", *(name for name, _ in shares), "all"], rows)]


def _typical(reports: list[Site]) -> str:
    known = [value for value in (finite(each.seconds.get("train")) for each in reports) if value is not None]
    return seconds_text(median(known)) if known else "–"


def _sent(reports: list[Site], way: str) -> str:
    known = [value for value in (finite(each.bytes.get(way)) for each in reports) if value is not None]
    return bytes_text(sum(known)) if known else "–"


def _file(run_dir: Path | None, name: str) -> str:
    if run_dir is None or (run_dir / name).exists():
        return name
    return "JOB" if name.startswith("job") else "FEDERATION"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions(record: Record) -> list[tuple[str, object]]:
    recorded: Any = record.raw.get("versions")
    if isinstance(recorded, Mapping):
        return [("Versions", ", ".join(f"{name} {version}" for name, version in recorded.items()))]
    found = [f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    ran = f"fedcore {record.raw['fedcore']}" if record.raw.get("fedcore") else "unknown"
    return [("Ran with", ran), ("This page was written with", ", ".join(found))]
