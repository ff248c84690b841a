"""A job on the embedded engine."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context

from fedcore.coordinator.runner import execute
from fedcore.coordinator.watch import Silent
from fedcore.coordinator.workflows.settings import Settings
from fedcore.engines.cores import usable_cores
from fedcore.engines.embedded import EmbeddedGrid, Node
from fedcore.flower import empty_run
from fedcore.jobs.job import AnyJob, TrainJob
from fedcore.jobs.load import LoadedFederation
from fedcore.jobs.participant import Participant
from fedcore.jobs.psi import PsiJob
from fedcore.jobs.vertical import VerticalJob
from fedcore.learning.rendezvous import serves
from fedcore.participant.client_app import build_client_app
from fedcore.participant.meeting import InMemory
from strategies.base import StrategyError
from strategies.registry import resolve


def by_index(participants: Sequence[Participant]) -> Any:
    """Finds a participant by the `partition-id` of its node, as Flower's simulation sets it too."""

    def resolve(context: Context) -> Participant:
        return participants[int(context.node_config["partition-id"])]

    return resolve


def run_embedded(
    home: Path, job: AnyJob, federation: LoadedFederation, run: str, *, resume: bool, watcher: Any
) -> dict[str, Any]:
    """Run the job in this process.

    Args:
        home: Run folder.
        job, federation: Loaded.
        run: The run's id.
        resume: Go on from the last checkpoint.
        watcher: Told what happens.
    """
    people = federation.participants
    cores = usable_cores()
    options = federation.spec.embedded
    workers = min(cores, len(people)) if options.workers == "auto" else options.workers
    if isinstance(job, PsiJob | VerticalJob):
        # Parties that wait for each other need a thread each.
        workers = max(len(job.parties), workers)
    told = watcher or Silent()
    nodes = [Node({"partition-id": i, "num-partitions": len(people)}, {}) for i in range(len(people))]
    # This thread, which evaluates on central data, keeps every core. Asking for the number of threads is what
    # fixes it here: a thread that never asked takes over the number that a worker sets for itself.
    threads = torch.get_num_threads()
    grid = EmbeddedGrid(
        build_client_app(by_index(people), InMemory(), told.progress),
        nodes,
        workers=workers,
        serialize=options.serialize,
        threads=max(1, cores // workers),
        together=_together(job, options.together or 0, len(people)),
    )
    grid.set_run(empty_run())
    settings = Settings(
        run=run,
        folder=home,
        engine="embedded",
        expected=len(people),
        watcher=told,
        stream=True,
        digest=federation.spec.virtual is None,
        participants=people,
        resume=resume,
        network=federation.spec.network,
    )
    # Flower's strategies narrate on the console; the run's log has it all.
    console = logging.getLogger("flwr")
    handlers, console.handlers = console.handlers, [logging.NullHandler()]
    try:
        return execute(job, grid, settings)
    finally:
        console.handlers = handlers
        torch.set_num_threads(threads)
        grid.close()


def _together(job: AnyJob, wanted: int, people: int) -> int:
    """Participants to train as one batched model at a time; 0 where each is to train alone.

    What only the model tells, the first round finds out.
    """
    if not wanted or not isinstance(job, TrainJob):
        return 0
    reason = None
    if job.protection.of_record is not None:
        reason = "protection.differential_privacy.level is record, which clips each participant's rows"
    elif job.local.patience is not None:
        reason = "local.patience stops each participant at another epoch"
    else:
        # A strategy that is none is told by the run itself.
        with contextlib.suppress(StrategyError):
            if not serves(resolve(job.strategy.use).client):
                reason = f"strategy {job.strategy.use} does something of its own at the participants"
    if reason is not None:
        logging.getLogger("fedcore.engines").warning("embedded.together is left out: %s", reason)
        return 0
    return min(wanted, people)
