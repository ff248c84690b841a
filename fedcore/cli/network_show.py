"""`fedcore network show`: a plan on its map, and what else the job could cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedcore.cli.output import Json, print_json
from fedcore.errors import DataError

if TYPE_CHECKING:
    from fedcore.network.front import Point
    from fedcore.network.made_of import MadeOf
    from fedcore.network.plan import Plan


def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="PLAN|RUN", help='A plan file, or a run: its folder, its name in runs/, or "last".'
        ),
    ] = "last",
    out: Annotated[
        Path | None, typer.Option(help="Where the picture goes: FILE.svg, FILE.png or FILE.pdf.")
    ] = None,
    map_: Annotated[
        Path | None, typer.Option("--map", help="Network map, for a plan that has lost its inputs file.")
    ] = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Other placements of the job: time against carbon and cost.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, max=20, help="Of the grid of weights, for --pareto.")] = 5,
    as_json: Json = False,
) -> None:
    """Show a plan: its figures, and with --out its picture on the map.

    Sites stand by longitude and latitude, their colour is the carbon of the
    grid. Small discs compute, rings aggregate; the lines between them have the
    colour of their latency circle.

    With --pareto the job is planned anew over a grid of weights of time,
    carbon and cost, and the picture is of these.

    Example: fedcore network show last --out plan.svg

    Example: fedcore network show plan.json --pareto --out front.png
    """
    from fedcore.network.plan import load_plan

    file = _plan_file(what)
    plan = load_plan(file)
    made_of = _made_of(file, map_)
    points: tuple[Point, ...] = ()
    if pareto:
        if made_of is None or not made_of.offers:
            raise DataError(
                f"{file.name}: the offers are needed for --pareto, and no file beside it holds them"
            )
        from fedcore.network.front import pareto as front

        points = front(plan, made_of.offers, made_of.topology, made_of.policy, steps=steps)
    if out is not None:
        _draw(plan, made_of, points, out, file)
    if as_json:
        told = {"plan": asdict(plan), "file": str(file), "picture": str(out) if out else None}
        print_json({**told, **({"pareto": [asdict(point) for point in points]} if pareto else {})})
        return
    _print(plan, made_of, points, out)


def _plan_file(what: str) -> Path:
    """The plan that a person means.

    Raises:
        DataError: The run has none: its job has no placement.
    """
    given = Path(what)
    if given.is_file() and given.name != "result.json":
        return given
    from fedcore.cli.show import find_run

    file = find_run(what) / "plan.json"
    if not file.is_file():
        raise DataError(
            f"{file} is not there: the run was not placed. Cure: placement: POLICY.yaml in the job",
            step="placement",
        )
    return file


def _made_of(file: Path, map_: Path | None) -> MadeOf | None:
    from fedcore.network.made_of import MadeOf, beside, load_made_of

    if map_ is not None:
        from fedcore.network.policy import Policy
        from fedcore.network.topology import load_topology

        return MadeOf((), load_topology(map_), Policy())
    return load_made_of(file) if beside(file).exists() else None


def _draw(plan: Plan, made_of: MadeOf | None, points: tuple[Point, ...], out: Path, file: Path) -> None:
    from fedcore.network.svg import save_figure

    if made_of is None:
        from fedcore.network.made_of import beside

        raise DataError(f"{beside(file)} is not there, which holds the map of the plan. Cure: --map FILE")
    if points:
        from fedcore.network.draw_front import draw_front, front_title
        from fedcore.network.front import point_of

        policy = made_of.policy
        figure = draw_front(
            points, point_of(plan, policy), currency=policy.currency, basis=policy.carbon.basis
        )
        save_figure(figure, out, front_title(plan, points))
        return
    from fedcore.network.draw import draw_plan, title_of

    save_figure(draw_plan(plan, made_of.topology, made_of.offers), out, title_of(plan))


def _print(plan: Plan, made_of: MadeOf | None, points: tuple[Point, ...], out: Path | None) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    if points and made_of is not None:
        console.print(_front(points, made_of.policy.currency))
    elif made_of is not None:
        from fedcore.cli.network_plan_shown import show_plan

        show_plan(plan, made_of.policy, made_of.topology, None, None)
    else:
        from fedcore.network.draw import title_of

        console.print(Text(title_of(plan)))
    if out is not None:
        console.print(Text(f"picture: {out}"), soft_wrap=True)


def _front(points: tuple[Point, ...], currency: str) -> Any:
    from rich.table import Table

    from fedcore.cli.network_shown import number

    table = Table(box=None, header_style="dim", padding=(0, 3, 0, 0))
    for name in ("seconds", "g CO2", currency, "weights of time, carbon, cost"):
        table.add_column(name, justify="right")
    table.add_column("")
    for point in points:
        weights = " ".join(f"{weight:.2f}" for weight in point.weights)
        table.add_row(*map(number, point.figures), weights, "" if point.efficient else "beaten by another")
    return table
