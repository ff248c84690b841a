"""`fedcore network plan`: who would compute where, by a policy, before anybody is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedcore.cli.output import Json, error_as_json, print_json
from fedcore.errors import FedcoreError, JobError, NoPlacement, did_you_mean

if TYPE_CHECKING:
    from fedcore.network.descriptor import Descriptor
    from fedcore.network.plan import Plan
    from fedcore.network.policy import Policy
    from fedcore.network.quotes import Quotes
    from fedcore.network.relax import Relaxation
    from fedcore.network.topology import Topology
    from fedcore.network.work import Request
    from fedcore.trust.identity import Identity


@dataclass(frozen=True)
class _Ground:
    """What is planned on.

    Args:
        nodes: Descriptors of all owners.
        keys: Of owners, by name.
        root: Site of the coordinator.
    """

    nodes: tuple[Descriptor, ...]
    keys: dict[str, Identity]
    topology: Topology
    root: str
    policy: Policy


@dataclass(frozen=True)
class _Told:
    """What the command line says of the work."""

    job: str | None
    rows: int | None
    model_mb: float | None
    epochs: int
    protocol: str
    seed: int
    placement: Path | None = None


def plan(
    nodes: Annotated[
        list[Path],
        typer.Argument(
            metavar="NODES...",
            help="Descriptors, a folder of them, or a federation file.",
            show_default=False,
        ),
    ],
    policy: Annotated[Path | None, typer.Option(help="Policy file; the job's when it is left out.")] = None,
    map_: Annotated[
        Path | None, typer.Option("--map", help="Network map; the federation's when left out.")
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="Site of the coordinator; the federation's when left out.")
    ] = None,
    job: Annotated[
        Path | None, typer.Option(help="Job file: name, epochs, protection, seed, policy.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="A finished run of the job: rows and size of the model are taken from it."),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Rows to train on, over all participants.")] = None,
    model_mb: Annotated[
        float | None, typer.Option(min=1e-6, help="Size of the model, MB (10^6 bytes).")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Over the rows in a round; 1 when left out.")
    ] = None,
    gap: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Prove the plan to this share of (random - bound), as 0.005."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="For proving, at most.")] = 60.0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the random placements that scale the terms.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the plan goes, as plan.json.")] = None,
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="ONE OTHER", help="Place a session of two parties instead."),
    ] = None,
    there: Annotated[int, typer.Option("--bytes", min=0, help="Of the session, from the first party.")] = 0,
    back: Annotated[int, typer.Option("--bytes-back", min=0, help="Of the session, from the second.")] = 0,
    trips: Annotated[int, typer.Option(min=0, help="Messages of the session that wait for one before.")] = 1,
    as_json: Json = False,
) -> int:
    """Plan a round: who computes where and who aggregates, predicted, and proven when asked.

    Offers are made from the descriptors as their owners would make them. Where
    the owners' keys are here, through a federation's participant files, they
    are signed; else they are a trial. Nobody is asked and nothing is leased.

    A policy that cannot be kept ends with exit code 2 and with the fewest
    constraints to relax.

    Example: fedcore network plan nodes/ --policy configs/policies/green.yaml
    --map configs/networks/eight_hubs.yaml --root zhangjiakou --rows 4000 --model-mb 20 --gap 0.005 --out plan.json

    Example: fedcore network plan FEDERATION.yaml --job JOB.yaml --run runs/last-one

    Example: fedcore network plan FEDERATION.yaml --policy POLICY.yaml --pair bank-a telecom-b --bytes 40000000 --trips 4
    """
    told = _told(job, run, rows, model_mb, epochs, seed)
    ground = _ground(nodes, policy or told.placement, map_, root)
    if pair is not None:
        from fedcore.cli.network_pair import place_session

        work = _request(told, ground) if told.rows and told.model_mb else None
        return place_session(ground, work, told.job, pair, (there, back, trips), as_json)
    request = _request(told, ground)
    from fedcore.network.quotes import quotes

    quoted = quotes(request, ground.nodes, ground.keys, needed=ground.policy.hard.evidence)
    if not quoted.offers:
        why = "; ".join(f"{one.owner}: {one.name} {one.reason}" for one in quoted.left_out[:10])
        raise JobError(f"no node can be planned with ({why})", step="placement")
    try:
        made = _planned(ground, request, quoted, told.seed, gap, seconds, out)
    except FedcoreError as error:
        relax = _relaxations(ground, request, quoted)
        if not relax:
            raise
        return _infeasible(error, relax, ground, as_json)
    if out is not None:
        from fedcore.network.made_of import save_made_of
        from fedcore.network.plan import save_plan

        save_plan(made, out)
        save_made_of(out, quoted.offers, ground.topology, ground.policy)
    if as_json:
        left_out = [asdict(one) for one in quoted.left_out]
        also = {"signed": list(quoted.signed), "trial": list(quoted.trial), "left_out": left_out}
        print_json({**asdict(made), **also, "file": str(out) if out else None})
    else:
        from fedcore.cli.network_plan_shown import show_plan

        show_plan(made, ground.policy, ground.topology, quoted, out)
    return 0


def _told(
    job: Path | None,
    run: Path | None,
    rows: int | None,
    model_mb: float | None,
    epochs: int | None,
    seed: int | None,
) -> _Told:
    """The work, from the job, a run of it and the options; an option counts more than a file."""
    name, of_epochs, protocol, of_seed, placement = None, 1, "none", 0, None
    if job is not None:
        from fedcore.jobs.load import load_job

        spec = load_job(job)
        name = spec.name
        if spec.kind == "train":
            of_epochs, of_seed, placement = spec.local.epochs, spec.seed, spec.placement
            protocol = spec.protection.secure_aggregation.protocol
    if run is not None:
        result = _result(run)
        model = result.get("model") or {}
        if model_mb is None and model.get("bytes"):
            model_mb = float(model["bytes"]) / 1e6
        members = [one.get("train_rows") for one in result.get("participants", ()) if isinstance(one, dict)]
        total = sum(int(one) for one in members if one) or int(
            (result.get("totals") or {}).get("train_rows", 0)
        )
        rows = rows or total or None
        name = name or result.get("name")
    return _Told(
        name, rows, model_mb, epochs or of_epochs, protocol, seed if seed is not None else of_seed, placement
    )


def _result(run: Path) -> dict[str, Any]:
    file = run / "result.json" if run.is_dir() else run
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return dict(found)
    except (OSError, ValueError, TypeError) as error:
        raise JobError(
            f"{file} cannot be read as a run's result. Cure: --run with a folder such as runs/NAME-TIME"
        ) from error


def _ground(paths: Sequence[Path], policy: Path | None, map_: Path | None, root: str | None) -> _Ground:
    """Descriptors, keys, map and policy, with all that is missing said at once."""
    from fedcore.network.policy import load_policy
    from fedcore.network.quotes import descriptors_in
    from fedcore.network.topology import load_topology

    files: list[Path] = []
    keys: dict[str, Identity] = {}
    for path in paths:
        if not path.exists():
            raise JobError(f"{path} does not exist; name descriptors, a folder of them, or a federation file")
        if not _is_federation(path):
            files.append(path)
            continue
        from fedcore.jobs.load import load_federation

        loaded = load_federation(path)
        network = loaded.spec.network
        map_, root = map_ or (network.map if network else None), root or (network.root if network else None)
        for each in loaded.participants:
            files += each.nodes
            key = _key(each.identity, each.name)
            keys |= {each.name: key} if key else {}
    missing = [
        (map_, "--map FILE, or network: {map: ..., root: ...} in a federation"),
        (root, "--root SITE, where the coordinator is"),
        (policy, "--policy FILE, or --job with a placement"),
        (files or None, "descriptors: files, a folder, or nodes in the participants' files"),
    ]
    lacks = [words for value, words in missing if value is None]
    if lacks or map_ is None or root is None or policy is None:
        raise JobError(f"planning needs {'; '.join(lacks)}", step="placement")
    topology = load_topology(map_)
    if root not in topology.sites:
        raise JobError(
            f'--root: no site is called "{root}"; {did_you_mean(root, topology.names)}', step="placement"
        )
    nodes = descriptors_in(files)
    for node in nodes:
        if node.site not in topology.sites:
            raise JobError(
                f'{node.owner}/{node.node} stands at "{node.site}", which is not on the map {topology.file.name}; '
                f"{did_you_mean(node.site, topology.names)}",
                step="placement",
            )
    return _Ground(tuple(nodes), keys, topology, root, load_policy(policy))


def _is_federation(path: Path) -> bool:
    from fedcore.jobs.load import recognise
    from fedcore.jobs.source import read_source
    from fedcore.network.files import network_kind

    if path.is_dir():
        return False
    data = read_source(path)[0].data
    return network_kind(data) is None and recognise(data) == "federation"


def _key(path: Path | None, name: str) -> Identity | None:
    """A participant's key where it is here; none is made for a trial."""
    from fedcore.trust.identity import load_identity

    return load_identity(path, name) if path is not None and path.exists() else None


def _request(told: _Told, ground: _Ground) -> Request:
    lacks = [
        words
        for value, words in (
            (told.rows, "--rows N, over all participants"),
            (told.model_mb, "--model-mb SIZE"),
        )
        if value is None
    ]
    if lacks or told.rows is None or told.model_mb is None:
        raise JobError(
            f"the work is not known: {' and '.join(lacks)}; or --run with a finished run of the job",
            step="placement",
        )
    from fedcore.coordinator.workflows.placement import request_of

    size = max(1, round(told.model_mb * 1e6))
    return request_of(
        job=told.job or "work",
        rows=told.rows,
        members=len({node.owner for node in ground.nodes}),
        epochs=told.epochs,
        parameters=max(1, size // 4),
        model_bytes=size,
        protocol=told.protocol,
        policy=ground.policy,
    )


def _planned(
    ground: _Ground,
    request: Request,
    quoted: Quotes,
    seed: int,
    gap: float | None,
    seconds: float,
    out: Path | None,
) -> Plan:
    from fedcore.coordinator.workflows.placement import work_of
    from fedcore.network.place import make_plan
    from fedcore.network.plan import load_plan

    version = 1
    if out is not None and out.exists():
        there = load_plan(out)
        version = there.version + 1 if there.job == request.job else 1
    return make_plan(
        quoted.offers,
        ground.topology,
        ground.policy,
        work_of(request),
        ground.root,
        job=request.job,
        version=version,
        seed=seed,
        gap=gap,
        seconds=seconds,
    )


def _relaxations(ground: _Ground, request: Request, quoted: Quotes) -> tuple[Relaxation, ...]:
    """The fewest constraints to relax; none where that is not what is wrong."""
    from fedcore.coordinator.workflows.placement import work_of
    from fedcore.network.relax import relaxations

    try:
        return relaxations(quoted.offers, ground.topology, ground.policy, work_of(request), ground.root)
    except FedcoreError:
        return ()


def _infeasible(error: FedcoreError, relax: Sequence[Relaxation], ground: _Ground, as_json: bool) -> int:
    """Say what cannot be kept, and what would do."""
    if as_json:
        print_json(
            {
                "error": {**error_as_json(error), "exit_code": NoPlacement.exit_code},
                "relax": [
                    {"constraints": list(one.constraints), "enough": dict(one.enough)} for one in relax
                ],
            }
        )
        return NoPlacement.exit_code
    from fedcore.cli.network_plan_shown import show_infeasible

    show_infeasible(ground.policy.name, relax)
    return NoPlacement.exit_code
