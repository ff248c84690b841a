"""Place a training on an invented network by four policies and by chance, and show what each takes, simulated.

    python examples/compute_network/run.py [--seeds N] [--figure FILE]

Time, energy, carbon and cost come from a simulated clock that is driven by the nodes' descriptors; the descriptors are
invented (`federation.py`). What is learned is real: a small model, trained round by round by whom each policy chose.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1]))

from examples.compute_network.courses import POLICIES, TARGET, course, policy  # noqa: E402
from examples.compute_network.federation import make_network  # noqa: E402
from fedcore.network.course import Lap  # noqa: E402

SIMULATED = "time, carbon and cost by a simulated clock, accuracy of a model that was trained"
COLUMNS = (
    "chosen by",
    "rounds",
    "s a round",
    "g a round",
    "CNY a round",
    "minutes",
    "g CO2",
    "CNY",
    "accuracy",
)


def courses(seed: int, rounds: int | None = None, names: Sequence[str] = POLICIES) -> dict[str, list[Lap]]:
    """A course by each policy and one by chance, on one network.

    Args:
        seed: Of the network, the data and the weather.
        rounds: At most; as many as the target takes by default.
        names: Of the policies.
    """
    network = make_network(seed)
    more = {} if rounds is None else {"rounds": rounds}
    found = {"chance": course(network, policy("balanced"), seed=seed, random=True, **more)}
    return found | {name: course(network, policy(name), seed=seed, **more) for name in names}


def table(laps: Mapping[str, Sequence[Sequence[Lap]]]) -> list[tuple[str, ...]]:
    """A row for each way to choose: medians over its courses, until the target."""
    rows = []
    for name, several in laps.items():
        last = [one[-1] for one in several]
        middle = [
            float(np.median(values))
            for values in (
                [len(one) for one in several],
                [end.seconds / len(one) for end, one in zip(last, several, strict=True)],
                [end.gco2 / len(one) for end, one in zip(last, several, strict=True)],
                [end.cost / len(one) for end, one in zip(last, several, strict=True)],
                [end.seconds / 60 for end in last],
                [end.gco2 for end in last],
                [end.cost for end in last],
                [end.score for end in last],
            )
        ]
        forms = ("{:.0f}", "{:.0f}", "{:.0f}", "{:.2f}", "{:.0f}", "{:.0f}", "{:.1f}", "{:.3f}")
        rows.append((name, *(form.format(value) for form, value in zip(forms, middle, strict=True))))
    return rows


def text(rows: Sequence[Sequence[str]]) -> str:
    """Columns in line."""
    lines = [COLUMNS, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )  # fmt: skip


def figure(laps: Mapping[str, Sequence[Lap]], file: Path) -> None:
    """Accuracy against time and against carbon, of one course each."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9.5, 4.0), layout="constrained")
    left, right = drawing.subplots(1, 2, sharey=True)
    for name, course_ in laps.items():
        style = {"linestyle": "--", "color": "0.45"} if name == "chance" else {}
        score = [lap.score for lap in course_]
        left.plot([lap.seconds / 60 for lap in course_], score, label=name, **style)
        right.plot([lap.gco2 for lap in course_], score, label=name, **style)
    for axis, label in ((left, "simulated minutes (log)"), (right, "simulated g CO2, location-based (log)")):
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.axhline(TARGET, color="0.8", linewidth=1, zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("accuracy of the trained model")
    right.legend(frameon=False, loc="lower right")
    drawing.suptitle("Simulation: 40 invented participants at the eight hubs", fontsize=11)
    file.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(file, dpi=130)


def main(words: Sequence[str] | None = None) -> None:
    """Print the table, draw the figure."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--seeds", type=int, default=5, help="networks; the table has medians over them (5)")
    options.add_argument(
        "--figure", type=Path, default=Path("runs/compute_network.png"), help="where it goes"
    )
    options.add_argument("--rounds", type=int, help="at most; as many as the target takes by default")
    given = options.parse_args(words)
    found: dict[str, list[list[Lap]]] = {}
    for seed in range(7, 7 + given.seeds):
        told = courses(seed, given.rounds)
        for name, laps in told.items():
            found.setdefault(name, []).append(laps)
    print(f"SIMULATION: {SIMULATED}.")
    print(
        f"Until accuracy {TARGET:g}, ten of forty participants a round; medians over {given.seeds} networks.\n"
    )
    print(text(table(found)))
    figure({name: several[0] for name, several in found.items()}, given.figure)
    print(f"\n{given.figure}: accuracy against simulated time and carbon, on the first network.")


if __name__ == "__main__":
    main()
