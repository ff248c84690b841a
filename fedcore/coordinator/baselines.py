"""What the federation is compared with: each site alone, and all rows in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from flwr.app import ConfigRecord, Message, RecordDict

from fedcore.coordinator.grids.cohort import CohortGrid
from fedcore.coordinator.grids.evidence import EvidenceGrid
from fedcore.coordinator.model import Model
from fedcore.errors import JobError
from fedcore.flower import NDArray, array_record, arrays_in, metrics_in, ndarrays
from fedcore.jobs.job import TrainJob
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import TrainRequest
from fedcore.learning.examples import Examples
from fedcore.learning.training import load_arrays, take_arrays, train
from fedcore.participant.means import EXAMPLES, MetricMean
from fedcore.participant.site import ready_site

CENTRAL = "central data"
OWN = "each site's own validation rows"


def measure_baselines(
    job: TrainJob,
    participants: Sequence[Participant],
    cohort: CohortGrid,
    evidence: EvidenceGrid,
    model: Model,
    federated: dict[str, NDArray],
    rounds: list[dict[str, Any]],
) -> dict[str, Any]:
    """Train the baselines that the job asks for, with the same local settings and as many epochs in all.

    All are measured on the central data when there is some: sites with unlike rows cannot be compared on
    their own. Otherwise each site's model is measured on that site's validation rows.

    Args:
        job: Names the baselines.
        participants: For `pooled`, which needs all rows on this machine.
        cohort: The run's participants.
        evidence: Records the exchange.
        model: Task and central data.
        federated: The arrays that the run keeps.
        rounds: The run's records, up to the round whose arrays it keeps.

    Raises:
        JobError: `pooled` where the rows are not on one machine.
    """
    federated_metrics = model.evaluate_central(federated) or (rounds[-1]["evaluate"] if rounds else {})
    found: dict[str, Any] = {
        "measured_on": OWN if model.central is None else CENTRAL,
        "metric": next((m for m in ("accuracy", "auc", "dice", "loss") if m in federated_metrics), None),
        "federated": federated_metrics,
        "local": None,
        "pooled": None,
    }
    if "local" in job.baselines:
        found["local"] = _local(job, cohort, evidence, model)
    if "pooled" in job.baselines:
        members = set(cohort.members.values())
        found["pooled"] = _pooled(job, [p for p in participants if p.name in members], cohort, model)
    return found


def _local(
    job: TrainJob, cohort: CohortGrid, evidence: EvidenceGrid, model: Model
) -> dict[str, dict[str, float]]:
    evidence.begin("local baseline", 0)
    config = ConfigRecord({"server-round": 1, "solo-rounds": job.rounds})
    content = RecordDict({"arrays": array_record(model.initial_arrays()), "config": config})
    messages = [Message(content, node, "train") for node in cohort.get_node_ids()]
    found = {}
    for reply in cohort.stream(messages, job.deadline * max(1, job.rounds)):
        if reply.has_error():
            continue
        name = cohort.members[reply.metadata.src_node_id]
        if model.central is not None:
            arrays = ndarrays(arrays_in(reply.content)[0])
            found[name] = model.evaluate_on(arrays, model.central)
        else:
            metrics = metrics_in(reply.content)[0]
            found[name] = {
                k: float(v) for k, v in metrics.items() if k != EXAMPLES and not isinstance(v, list)
            }
    return {name: found[name] for name in sorted(found)}


def _pooled(
    job: TrainJob, participants: Sequence[Participant], cohort: CohortGrid, model: Model
) -> dict[str, float]:
    request = cohort.request
    if not participants or not isinstance(request, TrainRequest):
        raise JobError(
            "baselines: pooled needs every site's rows on one machine, which this engine does not have; "
            "leave it out, or run the study on engine embedded"
        )
    sites = [ready_site(participant, request, torch.device("cpu")) for participant in participants]
    rows = Examples(torch.cat([s.train.x for s in sites]), torch.cat([s.train.y for s in sites]))
    # The sites may have float16; a CPU, where this runs, has not.
    precision = "auto" if job.local.precision == "float16" else job.local.precision
    changes = {"epochs": job.local.epochs * job.rounds, "patience": None, "precision": precision}
    local = job.local.model_copy(update=changes)
    load_arrays(model.module, model.initial_arrays())
    train(model.module, model.task, rows, local, seed=(job.seed, "pooled"))
    arrays = take_arrays(model.module)
    if model.central is not None:
        return model.evaluate_on(arrays, model.central)
    mean = MetricMean()
    for site in sites:
        if len(site.validation):
            mean.add_values(model.evaluate_on(arrays, site.validation), len(site.validation))
    return mean.means()
