"""`fedcore privacy audit`: attacks on the user's own job, with the user's own data."""

from __future__ import annotations

import json
import random
import secrets
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcore.errors import DataError, JobError, did_you_mean
from fedcore.jobs.analytics import AnalyticsJob
from fedcore.jobs.job import AnyJob, ImageTask, TrainJob
from fedcore.jobs.participant import Participant
from fedcore.jobs.privacy import RecordPrivacy

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

    from fedcore.analytics.audit import Differencing
    from fedcore.learning.audit import Audit, Claim, Floats

MOST_PARTICIPANTS = 200
PROVES_NOTHING = "A small bound proves nothing: it is what this attack saw, and another may see more."


@dataclass(frozen=True)
class Subject:
    """What is audited.

    Args:
        job: Of the file, or of the run.
        federation: A federation's or one participant's file; None when none is known.
        runs: Folder of past runs.
    """

    job: AnyJob
    federation: Path | None
    runs: Path


def subject(path: Path, federation: Path | None, runs: Path | None) -> Subject:
    """What a job file or a run folder names.

    Raises:
        JobError: It is neither.
    """
    from fedcore.engines.run import RUN_FILE, job_of
    from fedcore.jobs.load import load_job

    if not path.is_dir():
        return Subject(load_job(path), federation, runs or Path("runs"))
    job = job_of(path)
    if federation is None:
        federation = Path(json.loads((path / RUN_FILE).read_text())["federation"])
    return Subject(job, federation, runs or path.resolve().parent)


def participants_of(file: Path | None) -> tuple[Participant, ...]:
    """The participants whose data can be read here.

    Raises:
        JobError: No file is given, or it is no federation's and no participant's.
    """
    from fedcore.jobs.load import check_file, load_federation, load_participant

    if file is None:
        raise JobError(
            "an audit reads the participants' own data. Cure: --federation, the file of a federation or of one participant"
        )
    if check_file(file).kind == "participant":
        return (load_participant(file),)
    return load_federation(file).participants


def audit_questions(found: Subject, *, minimum: int) -> Differencing:
    """Differencing over the past questions of the job's data set.

    Args:
        found: With an analytics job.
        minimum: Fewest rows that may stand apart.
    """
    from fedcore.analytics.audit import differencing, past_questions
    from fedcore.analytics.disclosure import checked_minimum
    from fedcore.analytics.source import Source
    from fedcore.participant.data import read_schema, read_table

    checked_minimum(minimum)
    data = getattr(found.job, "data", "")
    folders = [each for each in found.runs.iterdir() if each.is_dir()] if found.runs.is_dir() else []
    asked, unread = past_questions(folders)
    asked = [each for each in asked if each.question.agreed.data == data]
    wanted = sorted({name for each in asked for name in each.question.columns})
    sites = {}
    for participant in participants_of(found.federation):
        if (held := participant.catalogue.get(data)) is not None:
            there = read_schema(held).names
            columns = [name for name in wanted if name in there] or there[:1]
            table = read_table(held, columns, memory=participant.resources.memory)
            sites[participant.name] = {data: Source(data, table, held.units)}
    if not sites:
        raise JobError(f"no participant of the federation has data set {data!r} here")
    return differencing(asked, sites, minimum=minimum, unread=unread)


def audit_training(
    found: Subject,
    *,
    participant: str | None = None,
    canaries: int = 200,
    trainings: int = 1,
    rounds: int | None = None,
    seed: int | None = None,
) -> tuple[Audit, str]:
    """Train the job again with canaries at one participant, and say what the model tells of them.

    Nothing is charged to a budget, and nothing leaves this machine: the audit's models hold the participants' data and
    are thrown away.

    Args:
        found: With a train job.
        participant: That gets the canaries; the one with the most rows when None.
        canaries: In each training; at most half of the participant's rows become some.
        trainings: Audited ones, each with other canaries; each takes a second one to compare with.
        rounds: In place of the job's, fewer.
        seed: Of canaries and coins; from the operating system when None.

    Returns:
        What was found, and who had the canaries.
    """
    from fedcore.learning.audit import audit

    job = found.job
    if not isinstance(job, TrainJob):
        raise JobError("canaries are for train jobs")
    if job.task.target is None:
        raise JobError("canaries have a wrong target, and the task has none (task.target)")
    if canaries < 2 or trainings < 1:
        raise JobError(f"{canaries} canaries in {trainings} trainings; allowed: 2 or more in 1 or more")
    everyone = _taking_part(job, participants_of(found.federation))
    tables = {each.name: _table(each, job) for each in everyone}
    name = _chosen(participant, tables)
    chance = random.Random(seed) if seed is not None else secrets.SystemRandom()
    small = _small(job, rounds)
    claim = claimed(job)
    found_scores, coins = [], []
    for _ in range(trainings):
        seen, included = _one(small, everyone, tables, name, canaries, chance)
        found_scores.append(seen)
        coins.append(included)
    import numpy as np

    delta = claim.delta if claim else 0.0
    return audit(np.concatenate(found_scores), np.concatenate(coins), delta=delta, claim=claim), name


def claimed(job: TrainJob) -> Claim | None:
    """What the job promises about one row.

    With `level: record` that is the promise itself. A promise about a client that is replaced covers a row of it. Under one about a client that is there or not, a row
    changes two things: the client leaves, and comes back with other rows.
    """
    from math import exp

    from fedcore.learning.audit import Claim

    asked = job.protection.differential_privacy
    if asked is None:
        return None
    if isinstance(asked, RecordPrivacy):
        return Claim(asked.epsilon, asked.delta, asked.word)
    if asked.change(job.participants.fraction) == "replace":
        return Claim(asked.epsilon, asked.delta, asked.word)
    words = f"{asked.word}, add-remove: twice that for one row"
    return Claim(2 * asked.epsilon, min(asked.delta * (1 + exp(asked.epsilon)), 0.999), words)


def _taking_part(job: TrainJob, everyone: Iterable[Participant]) -> tuple[Participant, ...]:
    names = job.participants.names
    held = tuple(
        each for each in everyone if job.data in each.catalogue and (names is None or each.name in names)
    )
    if not held:
        raise JobError(f"no participant has data set {job.data!r} here")
    if len(held) > MOST_PARTICIPANTS:
        raise JobError(
            f"{len(held)} participants; an audit copies the data of {MOST_PARTICIPANTS} at most. Cure: participants.names"
        )
    return held


def _table(participant: Participant, job: TrainJob) -> pa.Table:
    from fedcore.participant.data import read_table

    return read_table(participant.catalogue[job.data], None, memory=participant.resources.memory)


def _chosen(wanted: str | None, tables: dict[str, pa.Table]) -> str:
    if wanted is None:
        return max(tables, key=lambda name: tables[name].num_rows)
    if wanted not in tables:
        raise JobError(f"--participant: nobody is called {wanted!r}; {did_you_mean(wanted, tables)}")
    return wanted


def _small(job: TrainJob, rounds: int | None) -> TrainJob:
    """The job, with all rows trained on, and without what an audit does not need."""
    if rounds is not None and not 1 <= rounds <= job.rounds:
        raise JobError(f"--rounds is {rounds}; allowed: 1 to the job's {job.rounds}")
    local = job.local.model_copy(update={"validation": 0.0, "patience": None})
    evaluation = job.evaluation.model_copy(update={"federated": False, "central": None})
    return job.model_copy(
        update={
            "name": "audit",
            "local": local,
            "evaluation": evaluation,
            "rounds": rounds or job.rounds,
            "stop": None,
            "baselines": (),
            "placement": None,
        }
    )


def _one(
    job: TrainJob,
    everyone: Sequence[Participant],
    tables: dict[str, pa.Table],
    name: str,
    canaries: int,
    chance: random.Random,
) -> tuple[Floats, Any]:
    """Scores and coins of one audited training."""
    from fedcore.learning.audit import plant, scores

    data = next(each for each in everyone if each.name == name).catalogue[job.data]
    planted = plant(tables[name], str(job.task.target), canaries, data.row_id, chance)
    found = []
    with tempfile.TemporaryDirectory(prefix="fedcore-audit-") as folder:
        for which, table in (("without", planted.others), ("with", planted.table)):
            home = Path(folder) / which
            _trained(job, everyone, {**tables, name: table}, home)
            found.append(_losses(job, home / "run", planted.canaries, data.row_id))
    return scores(*found), planted.included


def _trained(job: TrainJob, everyone: Sequence[Participant], tables: dict[str, pa.Table], home: Path) -> None:
    """Run the job on these tables, on this machine."""
    import pyarrow.parquet as pq

    from fedcore.engines.run import run

    home.mkdir(mode=0o700)
    files = []
    for each in everyone:
        table, file = home / f"{each.name}.parquet", home / f"{each.name}.yaml"
        pq.write_table(tables[each.name], table)
        told = each.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        data = each.catalogue[job.data]
        told["catalogue"] = {
            job.data: {
                "connector": "parquet",
                "path": str(table),
                **({"row_id": data.row_id} if data.row_id else {}),
            }
        }
        for kept in ("identity", "nodes", "peers", "inbound", "output"):
            told.pop(kept, None)
        policy = told.get("policy", {})
        policy["rules"] = [rule for rule in policy.get("rules", []) if rule["data"] in (job.data, "any")]
        # Charged nowhere: what is made here is thrown away.
        policy.pop("privacy", None)
        told["policy"] = policy
        told["state"] = str(home / "state" / each.name)
        file.write_text(json.dumps(told))
        files.append(str(file))
    (home / "job.yaml").write_text(json.dumps(job.model_dump(mode="json", by_alias=True)))
    (home / "federation.yaml").write_text(
        json.dumps({"name": "audit", "engine": "embedded", "participants": files})
    )
    run(home / "job.yaml", home / "federation.yaml", engine="embedded", folder=home / "run")


def _losses(job: TrainJob, run: Path, canaries: pa.Table, row_id: str | None) -> Floats:
    """Of the canaries, by the trained model."""
    import numpy as np
    from safetensors.numpy import load_file

    from fedcore.learning.audit import losses
    from fedcore.learning.builtin import build_task
    from fedcore.learning.examples import encode, rows_from_table
    from fedcore.learning.task import Schema

    try:
        schema = Schema.from_dict(json.loads((run / "model.json").read_text())["schema"])
        arrays = load_file(run / "model.safetensors")
    except (OSError, KeyError, ValueError) as error:
        raise DataError("the audited training left no model that can be read", detail=str(error)) from error
    spec = job.task
    features = (spec.image,) if isinstance(spec, ImageTask) else spec.features
    rows = rows_from_table(canaries, features, spec.target, row_id)
    task = build_task(spec, schema)
    return losses(task, arrays, encode(rows, schema, task.classification, np.arange(len(rows))))


def run_audit(
    path: Path,
    *,
    federation: Path | None = None,
    runs: Path | None = None,
    minimum: int = 5,
    **training: Any,
) -> dict[str, Any]:
    """Audit a job, and say what was found, JSON values.

    Args:
        path: Job file or run folder.
        federation: Of a federation or a participant.
        runs: Past runs.
        minimum: Fewest rows that may stand apart.
        training: As `audit_training` takes it.

    Raises:
        JobError: The job is of a kind that is not audited.
    """
    found = subject(path, federation, runs)
    about = {"job": found.job.name, "kind": found.job.kind}
    if isinstance(found.job, AnalyticsJob):
        return {**about, "attack": "differencing", **audit_questions(found, minimum=minimum).to_json()}
    if isinstance(found.job, TrainJob):
        made, name = audit_training(found, **training)
        return {**about, "attack": "canaries", "participant": name, **made.to_json(), "note": PROVES_NOTHING}
    raise JobError(f"a {found.job.kind} job is not audited; allowed: analytics, train")


def show_audit(told: dict[str, Any], console: Console) -> None:
    """The audit for people."""
    from rich.table import Table
    from rich.text import Text

    head = Text(told["job"], style="bold")
    head.append(f"  {told['attack']}", style="dim")
    console.print(head)
    table = Table(box=None, header_style="bold", pad_edge=False, show_header=told["attack"] == "differencing")
    if told["attack"] == "differencing":
        for name in ("one", "group", "other", "group", "rows apart", "where"):
            table.add_column(name, overflow="fold")
        for pair in told["pairs"]:
            apart = "some" if pair["rows"] is None else str(pair["rows"])
            cells = (pair["one"], pair["one_group"], pair["other"], pair["other_group"], apart, pair["where"])
            table.add_row(*map(Text, cells))
        if told["pairs"]:
            console.print(table)
        many = len(told["pairs"])
        console.print(
            Text(
                f"{many} pair{'' if many == 1 else 's'} of {told['questions']} questions isolate fewer than "
                f"{told['minimum']} rows, over {len(told['sites'])} sites; {told['private']} with noise left out.",
                style="red" if many else "",
            )
        )
        for each in told["skipped"]:
            console.print(Text(f"not compared: {each}", style="yellow"))
        return
    claim = told["claim"]
    promised = f"{claim['epsilon']:.4g} ({claim['words']})" if claim else "no promise"
    for name, value in (
        ("canaries at", told["participant"]),
        ("canaries", str(told["canaries"])),
        ("guesses right", f"{told['right']} of {told['guesses']}"),
        ("epsilon, seen", f"at least {told['epsilon']:.4g}, at {told['confidence']:.0%} confidence"),
        ("epsilon, claimed", promised),
    ):
        table.add_row(Text(name, style="bold"), Text(value))
    console.print(table)
    if told["holds"] is False:
        console.print(Text("The claim does not hold.", style="bold red"))
    console.print(Text(told["note"], style="dim"))
