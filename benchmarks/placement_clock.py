"""Placed training against chance and against a policy without carbon, in a simulated clock.

    python benchmarks/placement_clock.py --seeds 20 --json

SIMULATION: seconds, kWh and grams come from `fedcore.network.clock`, driven by the descriptors of the example's invented
network (`examples/compute_network/federation.py` states every assumption); the model whose accuracy ends a course is
really trained. Each seed is another network, other data and other weather; both sides of a comparison meet the same.
Chance draws the participants of a round among those that are up; fedcore then chooses their nodes and aggregators by
the same policy, so that the comparison is of the choice alone. Green is the example's policy; what it is compared with
is that policy with the weight of carbon given to time (carbon-blind). "Green in time" is green under a deadline: for
each round the carbon-blind plan is made first, and the round may take a tenth longer than that predicts; as the
deadline looks after time, carbon has more weight. Its weights were found on seeds 100 to 107, not on those that count.
A round's figures are means over 32 rounds, in which turns and weather even out; chance's are those of its course.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common import Figure, Report, Target, machine, parser, progress
from benchmarks.measure import use_cores
from benchmarks.placement import interval
from examples.compute_network.courses import TARGET, Chooser, course, policy
from examples.compute_network.federation import ROOT, WORK, Network, make_network
from fedcore.network.clock import Clock
from fedcore.network.course import Lap, simulate
from fedcore.network.policy import Policy

UNLIKE = {"as drawn": 1.0, "half as unlike, on a logarithmic scale": 0.5}
FASTER = "times less time to the target than chance"
SPREAD = "90th over 10th percentile of the offers' seconds"
ROUNDS, PLAYED = 300, 32
HURRIED = {"time": 0.1, "carbon": 0.8}
GREEN = ("green", "green in time")
KINDS = {
    "carbon of a round, % less than carbon-blind": ("g a round", -1),
    "length of a round, % more than carbon-blind": ("s a round", 1),
    "carbon to the target, % less than carbon-blind": ("g", -1),
    "time to the target, % more than carbon-blind": ("minutes", 1),
}
"""What is compared: column, and whether more of it counts up or down."""


def main(words: Sequence[str] | None = None) -> Report:
    """All courses of all seeds."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=20, help="networks (20)")
    options.add_argument("--first", type=int, default=1000, help="the first seed (1000)")
    given = options.parse_args(words)
    use_cores(given.cores)
    report = Report(
        "placement_clock",
        {
            "simulation": "seconds, grams and CNY by a simulated clock; the model is really trained",
            "assumptions": "examples/compute_network/federation.py and the docstring of fedcore/network/clock.py",
            "network": "40 participants at the map eight_hubs, 10 in a round, in at most 4 of any 8 rounds in a row",
            "ends": f"at accuracy {TARGET:g} of a model on digits dealt unequally (Dirichlet, 0.3)",
            "seeds": given.seeds,
            "interval": "95 % of the mean over seeds, Student's t",
            "machine": machine(),
        },
    )
    for name, unlike in UNLIKE.items():
        rows = []
        for seed in range(given.first, given.first + given.seeds):
            rows.append(one(make_network(seed, unlike=unlike), seed))
            progress(
                f"{name}, seed {seed}: {rows[-1][FASTER]:.2f} {FASTER}",
                given.json,
            )
        _report(report, name, rows)
    report.tell(given.json)
    return report


def blind(rules: Policy) -> Policy:
    """A policy that does not look at carbon: its weight goes to time."""
    told = rules.weights
    return weighted(rules, {"time": round(told.time + told.carbon, 9), "carbon": 0.0})


def weighted(rules: Policy, weights: Mapping[str, float]) -> Policy:
    """The same with other weights for some terms."""
    return rules.model_copy(update={"weights": rules.weights.model_copy(update=dict(weights))})


def one(network: Network, seed: int) -> dict[str, Any]:
    """The courses of a seed, and what they are to each other."""
    green = policy("green")
    without, hurried = blind(green), weighted(green, HURRIED)
    rules: dict[str, dict[str, Any]] = {
        "chance": {"rules": without, "random": True},
        "carbon-blind": {"rules": without},
        "green": {"rules": green},
        "green in time": {"rules": hurried, "than": without},
    }
    told = {name: course(network, seed=seed, rounds=ROUNDS, **given) for name, given in rules.items()}
    long = {name: played(network, seed, **rules[name]) for name in rules if name != "chance"}
    sides = {name: side(laps, long.get(name, laps)) for name, laps in told.items()}
    seconds = np.array([offer.work_s for offer in network.offers])
    return {
        **sides,
        SPREAD: float(np.quantile(seconds, 0.9) / np.quantile(seconds, 0.1)),
        FASTER: sides["chance"]["minutes"] / sides["carbon-blind"]["minutes"],
        **{
            f"{name}: {what}": 100 * sign * (sides[name][column] / sides["carbon-blind"][column] - 1)
            for name in GREEN
            for what, (column, sign) in KINDS.items()
        },
    }


def played(network: Network, seed: int, rules: Policy, than: Policy | None = None) -> list[Lap]:
    """So many rounds of a policy that turns and weather even out, without training."""
    clock = Clock(network.offers, network.topology, rules, WORK, ROOT, seed=seed)
    return simulate(clock, Chooser(network, rules, None, than), lambda owners: 0.0, PLAYED)


def side(laps: Sequence[Lap], long: Sequence[Lap]) -> dict[str, float]:
    """Of a course until the target (infinite where it was not reached), and of its rounds."""
    last, end = laps[-1], long[-1]
    reached = last.score >= TARGET
    return {
        "s a round": end.seconds / len(long),
        "g a round": end.gco2 / len(long),
        "CNY a round": end.cost / len(long),
        "lost a round": sum(len(lap.took.lost) for lap in long) / len(long),
        "rounds": len(laps) if reached else math.inf,
        "minutes": last.seconds / 60 if reached else math.inf,
        "g": last.gco2 if reached else math.inf,
        "CNY": last.cost if reached else math.inf,
    }


def _report(report: Report, name: str, rows: list[dict[str, Any]]) -> None:
    for chosen in ("chance", "carbon-blind", *GREEN):
        figure: Figure = {
            "part": "courses until the target, SIMULATED, mean ± half of the 95 % interval",
            "hardware": name,
            "chosen by": chosen,
        }
        for column in rows[0][chosen]:
            figure[column] = interval([row[chosen][column] for row in rows])
        report.figures.append(figure)
    compared = [key for key in rows[0] if not isinstance(rows[0][key], dict)]
    for key in compared:
        values = [row[key] for row in rows]
        report.figures.append(
            {
                "part": "compared seed by seed, SIMULATED",
                "hardware": name,
                "what": key,
                "mean": interval(values),
                "least": float(min(values)),
                "most": float(max(values)),
            }
        )
    mean = {key: float(np.mean([row[key] for row in rows])) for key in compared}
    less, more = (f"green in time: {what}" for what in list(KINDS)[:2])
    report.targets += [
        Target(f"simulated, {name}: {FASTER}", mean[FASTER], at_least=1.5),
        Target(f"simulated, {name}: {less}", mean[less], at_least=20.0),
        Target(f"simulated, {name}: {more}", mean[more], at_most=10.0),
    ]


if __name__ == "__main__":
    main()
