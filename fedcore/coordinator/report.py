"""The run folder's `report.html`: one self-contained page for people who answer for the data.

The page holds no script and asks for nothing (`fedcore.drawing.page`).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedcore.coordinator import report_account as account
from fedcore.coordinator import report_analytics as analytics
from fedcore.coordinator import report_images as images
from fedcore.coordinator import report_placement as placed
from fedcore.coordinator import report_protection as protection
from fedcore.coordinator import report_psi as intersection
from fedcore.coordinator import report_results as results
from fedcore.coordinator import report_vertical as vertical
from fedcore.coordinator.record import Record, parse, read_result
from fedcore.coordinator.wording import comparison as compared
from fedcore.coordinator.wording import headline, status_text
from fedcore.drawing.markup import Markup, element, join
from fedcore.drawing.numbers import bytes_text, count_text, metric_text, metric_title, seconds_text
from fedcore.drawing.page import document, facts_list


def write_report(run_dir: Path) -> Path:
    """Write `report.html` from the run folder's `result.json`, replacing an older one at once.

    Args:
        run_dir: The run folder; `evidence/`, `model.safetensors` and `job.yaml` in it are counted and named
            when they are there.

    Returns:
        The path of the report.

    Raises:
        JobError: `result.json` is absent or is not a JSON object.
    """
    page = render(read_result(run_dir), run_dir)
    path = run_dir / "report.html"
    unfinished = run_dir / ".report.html.part"
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, path)
    return path


def render(result: Mapping[str, Any], run_dir: Path | None = None) -> str:
    """The page of a result.

    Args:
        result: The object of `result.json`; parts of it may be absent.
        run_dir: The run folder, for what only its files tell.
    """
    record = parse(result)
    title = f"{record.name}: {status_text(record).lower()} · fedcore report"
    parts = [_opening(record, run_dir), *_sections(record, run_dir), _colophon(record)]
    if record.kind == "analytics":
        return document(title, parts, analytics.STYLE, pictures=True)
    if images.shows(record):
        return document(title, parts, images.STYLE, pictures=True)
    return document(title, parts)


def _sections(record: Record, run_dir: Path | None) -> list[Markup]:
    if record.kind == "psi":
        return [
            account.protection(record, run_dir),
            intersection.parties(record),
            intersection.time(record),
            intersection.results(record),
            account.job(record),
        ]
    if record.kind == "analytics":
        return [
            *analytics.questions(record, run_dir),
            account.protection(record, run_dir),
            analytics.took_part(record),
            analytics.learned(record),
            account.job(record),
        ]
    if record.kind == "vertical":
        return [
            account.protection(record, run_dir),
            vertical.parties(record),
            vertical.steps(record),
            vertical.learned(record),
            account.job(record),
        ]
    return [
        account.protection(record, run_dir),
        protection.secure_aggregation(record),
        protection.differential_privacy(record),
        results.comparison(record),
        results.progress(record),
        results.sites(record),
        images.images(record, run_dir),
        account.cost(record),
        placed.placement(record, run_dir),
        account.lost(record),
        account.participants(record),
        account.job(record),
        account.reproduce(record, run_dir),
    ]


def _opening(record: Record, run_dir: Path | None) -> Markup:
    kinds = {
        "train": "a training run",
        "psi": "an intersection",
        "vertical": "a vertical run",
        "analytics": "answers",
    }
    kind = kinds.get(str(record.raw.get("kind")), "a run")
    label = element("p", element("b", "fedcore"), f" · report of {kind}", class_="label")
    parts = [
        label,
        element("h1", record.name),
        element("p", headline(record), class_="lede"),
        _stop_notice(record, run_dir),
    ]
    return element("header", *parts, facts_list(_facts(record)))


def _stop_notice(record: Record, run_dir: Path | None) -> Markup:
    why = str(record.error.get("message") or record.reason or "")
    if record.status == "partial":
        why = analytics.unanswered(record)
    if record.status in ("finished", "unknown") and not why:
        return Markup("")
    where = ", ".join(str(record.error[key]) for key in ("party", "step") if record.error.get(key))
    said: list[object] = [element("b", f"{status_text(record)}. ")]
    if where:
        said.append(f"{where}: ")
    said.append(f"{why.rstrip('.')}. " if why else "")
    if record.status in ("interrupted", "failed") and "fedcore resume" not in why:
        folder = f"{run_dir.resolve().parent.name}/{run_dir.resolve().name}" if run_dir else "RUN"
        command = element("code", f"fedcore resume {shlex.quote(folder)}")
        last = {
            "psi": "Begin it again with ",
            "vertical": "Go on from the last finished step with ",
            "analytics": "Ask again with ",
        }
        how = last.get(record.kind, "Go on from the last completed round with ")
        said.append(join([how, command, "."]))
    return element("p", *said, class_="notice" if record.status == "stopped-early" else "notice warn")


def _facts(record: Record) -> list[tuple[str, str, str]]:
    if record.kind == "vertical":
        return vertical.facts(record)
    if record.kind == "analytics":
        return analytics.facts(record)
    return intersection.facts(record) if record.kind == "psi" else _training_facts(record)


def _training_facts(record: Record) -> list[tuple[str, str, str]]:
    reached = compared(record)["federated"]
    planned = record.planned_rounds
    early = record.final_round and record.rounds and record.final_round != record.rounds[-1].number
    kept = f", kept that of {record.final_round}" if early else ""
    central = record.baselines is not None and "central" in record.baselines.measured_on
    lost = {each.party for each in record.lost}
    traffic = sum(record.total("bytes").values()) if record.rounds else None
    return [
        ("Status", status_text(record), ""),
        (
            metric_title(record.primary) or "Metric",
            metric_text(reached),
            "on central data" if central else "federated",
        ),
        ("Participants", count_text(len(record.members)), f"{len(lost)} missed a round" if lost else ""),
        ("Rows", count_text(record.rows), "in all"),
        ("Rounds", f"{len(record.rounds)}", f"of {planned}{kept}" if planned else ""),
        ("Time", seconds_text(record.seconds), f"engine {record.engine}"),
        ("Traffic", bytes_text(traffic), "in both directions"),
        ("Model", count_text(record.parameters), "parameters"),
    ]


def _colophon(record: Record) -> Markup:
    words = "Written from result.json in the run folder, which holds every number shown here"
    run = f"Run {record.run}. " if record.run else ""
    return element("footer", element("p", f"{run}{words}. This page loads nothing and runs no script."))
