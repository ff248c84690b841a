"""Placing rounds on a compute network: how good the plans are, how long they take, and what others' choices cost.

    python benchmarks/placement.py --nodes 200 --pick 50 --instances 20 --json

Instances are drawn (`placement_instances` states every assumption), baselines are in `placement_baselines`. A plan is
made from the offers to the finished plan object, time taken throughout; the proof of its bound is timed apart. Every
plan is judged by `fedcore.network.evaluate`, which shares no code with the search. The gap is
(plan - bound) / (random - bound), where random means owners and offers at random with aggregators placed by fedcore.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.common import Figure, Report, Target, machine, parser, progress
from benchmarks.measure import use_cores
from benchmarks.placement_baselines import CHOICES, judged
from benchmarks.placement_instances import Instance, instance
from fedcore.network.bound import prove
from fedcore.network.evaluate import evaluate
from fedcore.network.place import make_plan
from fedcore.network.problem import build
from fedcore.network.repair import Loss, repair
from fedcore.network.search import search

SIZES = ((100, 30), (200, 50), (1_000, 100), (10_000, 1_000), (100_000, 2_000))
PLAN_S = {1_000: 1.0, 10_000: 5.0, 100_000: 30.0}
REPAIR_S = {10_000: 1.0}
BASELINES = ("random", *CHOICES, "flat star")


def main(words: Sequence[str] | None = None) -> Report:
    """One size, or all."""
    options = parser(__doc__)
    options.add_argument("--nodes", type=int, help="owners (all sizes of the table unless told)")
    options.add_argument("--pick", type=int, help="of them, for a round")
    options.add_argument("--instances", type=int, default=20, help="of each size (20)")
    options.add_argument("--largest", type=int, default=20, help="instances of 50,000 owners and more (20)")
    options.add_argument("--proof", type=float, default=120.0, help="seconds of proving, at most (120)")
    chosen = options.parse_args(words)
    use_cores(chosen.cores)
    sizes = SIZES if chosen.nodes is None else ((chosen.nodes, chosen.pick or max(3, chosen.nodes // 4)),)
    report = Report("placement", _settings(chosen))
    for nodes, pick in sizes:
        count = min(chosen.instances, chosen.largest) if nodes >= 50_000 else chosen.instances
        rows = []
        for seed in range(count):
            rows.append(one(instance(nodes, pick, seed), chosen.proof))
            told = rows[-1]
            progress(
                f"{nodes} / {pick}, instance {seed}: plan {told['plan s']:.2f} s, gap {100 * told['gap']:.3f} %, "
                f"closest {min((told[name], name) for name in BASELINES)[1]}",
                chosen.json,
            )
        _report(report, nodes, pick, rows)
    report.tell(chosen.json)
    return report


def _settings(chosen: Any) -> dict[str, Any]:
    return {
        "instances": chosen.instances,
        "instances of 50,000 owners and more": chosen.largest,
        "map": "chinanet, 38 sites, 35 of them with aggregators",
        "assumptions": "benchmarks/placement_instances.py",
        "weights": "time 0.4, carbon 0.2, cost 0.2, latency 0.1, security 0.1",
        "plan s": "from the offers to the plan: checks, filter, search, standby, judge, digests",
        "repair": "the busiest aggregator and 5 % of the participants lost",
        "proof": "stops at 0.2 % of (random - plan) for up to 1,000 owners, at 0.5 % above; the gap is what was proven",
        "interval": "95 % of the mean over instances, Student's t",
        "machine": machine(),
    }


def one(drawn: Instance, proof_s: float) -> dict[str, float]:
    """Everything about one instance."""
    given = (drawn.offers, drawn.topology, drawn.policy, drawn.work, drawn.root)
    began, busy = time.perf_counter(), time.process_time()
    plan = make_plan(*given, seed=drawn.seed)
    seconds, worked = time.perf_counter() - began, time.process_time() - busy
    told = evaluate(plan.placed(), *given, plan.scale, standby=plan.standby)
    problem = build(*given, seed=drawn.seed)
    found = search(problem)
    if found is None:
        raise RuntimeError("an instance without a placement")
    others = judged(problem, drawn.root, drawn.seed)
    random = others["random"][0]
    began = time.perf_counter()
    share = 0.002 if len(problem.owners) <= 1_000 else 0.005
    proof = prove(problem, found, share * (random - found.objective), proof_s)
    proof_seconds = time.perf_counter() - began
    lost, repaired = _repair(drawn, plan)
    figures = {
        "objective": told.objective,
        "bound": proof.bound,
        "gap": (told.objective - proof.bound) / (random - proof.bound),
        "violations": float(len(told.violations) + lost),
        "plan s": seconds,
        "plan cpu s": worked,
        "proof s": proof_seconds,
        "repair s": repaired,
        "round s": told.round_s,
        "grams": told.gco2_location,
        "cost": told.cost,
    }
    return {**figures, **{name: others[name][0] for name in BASELINES}}


def _repair(drawn: Instance, plan: Any) -> tuple[int, float]:
    """Violations and seconds of a repair."""
    busiest = max(plan.aggregators, key=lambda use: (use.children, use.site)).site
    draw = np.random.default_rng(drawn.seed)
    nodes = [(one.owner, one.node) for one in plan.participants if draw.random() < 0.05]
    began = time.perf_counter()
    mended = repair(plan, drawn.offers, drawn.topology, drawn.policy, Loss(nodes=nodes, sites=[busiest]))
    seconds = time.perf_counter() - began
    told = evaluate(
        mended.plan.placed(), mended.offers, mended.topology, drawn.policy, drawn.work, drawn.root, plan.scale,
        standby=mended.plan.standby,
    )  # fmt: skip
    return len(told.violations), seconds


def _report(report: Report, nodes: int, pick: int, rows: list[dict[str, float]]) -> None:
    size = f"{nodes:,} / {pick:,}"
    part = "plans, mean ± half of the 95 % interval"
    figure: Figure = {"part": part, "owners / picked": size, "instances": len(rows)}
    for name in ("objective", "bound", "plan s", "plan cpu s", "proof s", "repair s"):
        figure[name] = interval([row[name] for row in rows])
    figure["gap %"] = interval([100 * row["gap"] for row in rows])
    figure["largest gap %"] = 100 * max(row["gap"] for row in rows)
    figure["longest plan s"] = max(row["plan s"] for row in rows)
    figure["violations"] = int(sum(row["violations"] for row in rows))
    report.figures.append(figure)
    for name in BASELINES:
        both = [(row[name], row["objective"]) for row in rows]
        finite = [other for other, _ in both if math.isfinite(other)]
        report.figures.append(
            {
                "part": "others' choices: objective, and how much worse than the plan",
                "owners / picked": size,
                "baseline": name,
                "objective": interval(finite) if finite else "none",
                "worse by": interval([other - own for other, own in both if math.isfinite(other)])
                if finite
                else "none",
                "plan is better on": f"{sum(own < other for other, own in both)} of {len(both)}",
                "without a placement": sum(not math.isfinite(other) for other, _ in both),
            }
        )
    report.targets += targets(size, nodes, rows)


def targets(size: str, nodes: int, rows: list[dict[str, float]]) -> list[Target]:
    """What the size must reach."""
    most = 0.5 if nodes <= 200 else 1.0
    found = [
        Target(
            f"{size}: largest proven gap, % of (random - bound)",
            100 * max(row["gap"] for row in rows),
            at_most=most,
        ),
        Target(f"{size}: hard constraints broken", sum(row["violations"] for row in rows), at_most=0),
        Target(
            f"{size}: least lead over any baseline on any instance, as a share of the plan's objective",
            min((row[name] - row["objective"]) / row["objective"] for row in rows for name in BASELINES),
            at_least=1e-6,
        ),
    ]
    if nodes in PLAN_S:
        found.append(
            Target(f"{size}: longest planning, s", max(row["plan s"] for row in rows), at_most=PLAN_S[nodes])
        )
    if nodes in REPAIR_S:
        found.append(
            Target(
                f"{size}: longest repair, s", max(row["repair s"] for row in rows), at_most=REPAIR_S[nodes]
            )
        )
    return found


def interval(values: Sequence[float]) -> str:
    """Mean and half of its 95 % confidence interval."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.4g}"
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return f"{mean:.4g} ± {half:.2g}"


if __name__ == "__main__":
    main()
