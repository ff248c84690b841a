"""`fedcore network plan --pair`: on which of its own nodes each of two parties works."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedcore.cli.output import print_json
from fedcore.errors import JobError, did_you_mean

if TYPE_CHECKING:
    from fedcore.cli.network_plan import _Ground
    from fedcore.network.pairs import Met
    from fedcore.network.work import Request


LITTLE = 1e9
"""Operations that stand for computing of which nothing is said: milliseconds on a processor."""


def place_session(
    ground: _Ground,
    work: Request | None,
    job: str | None,
    pair: tuple[str, str],
    traffic: tuple[int, int, int],
    as_json: bool,
) -> int:
    """Place a session of two parties, each on one of its own nodes.

    Args:
        work: Of each party; its computing hardly counts where it is not said.
        job: Whose measured rate counts.
        traffic: Bytes there and back, and messages that wait for one before them.

    Raises:
        JobError: A party has no node, or both are the same.
    """
    from fedcore.network.pairs import Session, place_pair
    from fedcore.network.quotes import quotes

    owners = sorted({node.owner for node in ground.nodes})
    for party in pair:
        if party not in owners:
            raise JobError(f'--pair: nobody called "{party}" has a node here; {did_you_mean(party, owners)}')
    there, back, trips = traffic
    request = work or _request(job or "session", there + back, ground.policy.currency)
    nodes = [node for node in ground.nodes if node.owner in pair]
    quoted = quotes(request, nodes, ground.keys, needed=ground.policy.hard.evidence)
    session = Session(there / 1e6, back / 1e6, trips, request.memory_gb)
    try:
        met = place_pair(*pair, quoted.offers, ground.topology, ground.policy, session, ground.root)
    except JobError as error:
        why = "; ".join(f"{one.owner}: {one.name} {one.reason}" for one in quoted.left_out[:10])
        raise JobError(f"{error.message} ({why})" if why else error.message, step="placement") from error
    if as_json:
        told: dict[str, Any] = asdict(met)
        left_out = [asdict(one) for one in quoted.left_out]
        also = {"signed": list(quoted.signed), "trial": list(quoted.trial), "left_out": left_out}
        print_json({**told, "parties": list(pair), **also})
    else:
        _show(met, pair, ground)
    return 0


def _request(job: str, size: int, currency: str) -> Request:
    """What travels, and hardly any computing but where `work.JOB` was measured."""
    from fedcore.network.work import Request

    return Request(
        id=secrets.token_hex(8),
        job=job,
        samples=1,
        epochs=1,
        model_bytes=max(1, size),
        protocol="none",
        currency=currency,
        memory_gb=0.1,
        flop_per_sample=LITTLE,
        efficiency=1.0,
    )


def _show(met: Met, pair: tuple[str, str], ground: _Ground) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fedcore.cli.network_shown import number

    console = Console()
    console.print(Text(f"session of {pair[0]} and {pair[1]}, policy {ground.policy.name}", style="bold"))
    table = Table(box=None, header_style="dim", padding=(0, 3, 0, 0))
    for name in ("party", "node", "site"):
        table.add_column(name)
    for party in pair:
        offer = met.offers[party]
        table.add_row(Text(party), Text(offer.node), Text(offer.site))
    console.print(table)
    circle = ground.topology.circle(met.offers[pair[0]].site, met.offers[pair[1]].site)
    console.print(
        f"{number(met.seconds)} s, {number(met.grams)} g CO2, {number(met.money)} {ground.policy.currency}; "
        f"{number(met.latency_ms)} ms apart, circle {circle}",
        highlight=False,
    )
    for one in met.rejected[:10]:
        console.print(Text(f"not used: {one.owner} {one.name}: {one.reason}", style="dim"))
