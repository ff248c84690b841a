"""How a train job is placed: its policy, the federation's network, and the work of a round."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.serverapp import Grid

from fedcore.coordinator.grids.evidence import EvidenceGrid
from fedcore.coordinator.grids.hierarchy import HierarchyGrid
from fedcore.coordinator.owners import Owners
from fedcore.coordinator.placing import COORDINATOR, STEP, Placing
from fedcore.coordinator.prepare import Agreement
from fedcore.coordinator.workflows.settings import Settings
from fedcore.errors import JobError, did_you_mean
from fedcore.flower import NDArray
from fedcore.jobs.job import TrainJob
from fedcore.network.lease import MOST_SECONDS
from fedcore.network.policy import Policy, load_policy
from fedcore.network.problem import Work
from fedcore.network.topology import load_topology
from fedcore.network.work import Request
from fedcore.trust.identity import load_identity, new_identity

PATIENCE = 60.0
LEAST_LEASE = 600
"""Seconds of the shortest lease: what a run that was killed keeps of its nodes."""
MODEL_FLOP = 6.0
"""Operations for one row and one parameter, forwards and backwards (2 + 4: Kaplan et al. 2020, section 2.1)."""
EFFICIENCY = 0.05
"""Share of the rate of large matrix products that a small model reaches, until its rate is measured."""


def placing(
    job: TrainJob,
    settings: Settings,
    grid: Grid,
    evidence: EvidenceGrid,
    hierarchy: HierarchyGrid | None,
    agreement: Agreement,
    arrays: Mapping[str, NDArray],
    rounds: Sequence[Mapping[str, Any]] = (),
) -> Placing:
    """Plans for a run of a job.

    Args:
        job: Names its policy.
        settings: Of the run, with the federation's network.
        grid: That reaches the participants.
        evidence: Below it, which records what passes.
        hierarchy: Gets the regions.
        agreement: Who takes part, with how many rows.
        arrays: Of the model.
        rounds: Records of the rounds so far.

    Raises:
        JobError: The policy or the map is wrong, they do not fit to the job, or the federation has no network.
    """
    network = settings.network
    if job.placement is None or network is None:
        raise JobError(
            f"the job asks for placement by {job.placement}, and the federation names no network. Cure: network: {{map: "
            "..., root: ...}} in the federation file",
            party=COORDINATOR,
            step=STEP,
        )
    policy, topology = load_policy(job.placement), load_topology(network.map)
    if network.root not in topology.names:
        raise JobError(
            f"network.root: no site is called {network.root!r}; {did_you_mean(network.root, topology.names)}",
            party=COORDINATOR,
            step=STEP,
        )
    pick = policy.participants.pick
    if pick is not None and pick < job.participants.min:
        raise JobError(
            f"policy {policy.name} picks {pick} participants for a round, and the job needs {job.participants.min}; raise "
            "participants.pick in the policy, or lower participants.min in the job",
            party=COORDINATOR,
            step=STEP,
        )
    if policy.participants.utility.weight > 0:
        raise JobError(
            f"policy {policy.name} weighs the utility of data (participants.utility), which no participant of this version "
            "tells; allowed: weight 0",
            party=COORDINATOR,
            step=STEP,
        )
    key = settings.identity or settings.folder / f"{COORDINATOR}.key"
    identity = load_identity(key, COORDINATOR) if key.exists() else new_identity(key, COORDINATOR)
    rows = agreement.totals.get("train_rows") or sum(
        int(site.get("train_rows", 0)) for site in agreement.sites.values()
    )
    request = request_of(
        job=job.name,
        rows=max(rows, len(agreement.members)),
        members=len(agreement.members),
        epochs=job.local.epochs,
        parameters=sum(value.size for value in arrays.values()),
        model_bytes=sum(value.nbytes for value in arrays.values()),
        protocol=job.protection.secure_aggregation.protocol,
        policy=policy,
    )
    owners = Owners(
        grid,
        members=agreement.members,
        request=request,
        identity=identity,
        pins=settings.keys,
        sites=topology.names,
        needed=policy.hard.evidence,
        plan=settings.run,
        lease_s=int(min(MOST_SECONDS, max(LEAST_LEASE, 3 * job.deadline))),
        aside=lambda: evidence.aside(STEP),
        patience=min(job.deadline, PATIENCE),
    )
    return Placing(
        owners,
        policy=policy,
        topology=topology,
        root=network.root,
        work=work_of(request),
        job=job.name,
        nodes={name: node for node, name in agreement.members.items()},
        minimum=job.participants.min,
        deadline=job.deadline,
        folder=settings.folder,
        hierarchy=hierarchy,
        seed=job.seed,
        rounds=rounds,
    )


def request_of(
    *,
    job: str,
    rows: int,
    members: int,
    epochs: int,
    parameters: int,
    model_bytes: int,
    protocol: str,
    policy: Policy,
) -> Request:
    """The work of a round, as owners are asked for it.

    Args:
        job: Its name.
        rows: Over all participants; each is taken to have its share, since none tells its own.
        members: Participants.
        epochs: Of a round.
        parameters, model_bytes: Of the model.
        protocol: Of secure aggregation, or `none`.
        policy: Whose currency counts.
    """
    return Request(
        id=secrets.token_hex(8),
        job=job,
        samples=max(1, math.ceil(rows / members)),
        epochs=epochs,
        model_bytes=max(1, model_bytes),
        protocol=protocol,  # type: ignore[arg-type]
        currency=policy.currency,
        neighbours=members - 1 if protocol == "secagg+" else 0,
        memory_gb=0.1,
        flop_per_sample=MODEL_FLOP * parameters,
        efficiency=EFFICIENCY,
    )


def work_of(request: Request) -> Work:
    """What travels in a round of this work."""
    size = request.model_bytes / 1e6
    trips = {"none": 1, "secagg+": 3}.get(request.protocol, 2)
    return Work(size, size, trips, request.memory_gb)
