"""What fedcore adds to Flower in a deployment: bytes and seconds per round, beside a hand-written Flower app.

Both run on the same kind of federation (SuperLink and three SuperNodes over TLS with node authentication,
processes started the same way), with the same model, rows, optimizer and FedAvg, train and evaluate in each
round. Bytes are those that Flower itself counts for the run at the SuperLink, both directions, without idle
polling. fedcore's run has one step more than Flower's, `prepare`, once before round 1; its bytes are counted,
its seconds are not part of a round.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, WORK, Report, Target, machine, parser, progress, ratio
from benchmarks.measure import alternate, middle

SITES, ROWS = 3, 250
PLAIN = "benchmarks.sides.flower_plain"


def main() -> None:
    """Measure both sides in turn."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--folder", type=Path, default=WORK / "overhead")
    chosen = options.parse_args()
    folder = chosen.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    sides = {
        name: lambda number, side=side, name=name: _told(side, folder / f"{name}-{number}", chosen, name)
        for name, side in (("fedcore", run_fedcore), ("Flower", run_plain))
    }
    measured = alternate(sides, chosen.repeats)
    figures = {
        name: {
            "side": name,
            "s per round": middle([one["seconds"] for one in told]),
            "bytes per round": middle([one["bytes"] / chosen.rounds for one in told]),
        }
        for name, told in measured.items()
    }
    ours, plain = figures["fedcore"], figures["Flower"]
    report = Report(
        "flower_overhead",
        {
            "sites": SITES,
            "rows each": ROWS,
            "rounds": chosen.rounds,
            "repeats": chosen.repeats,
            "machine": machine(),
        },
        list(figures.values()),
        [
            Target(
                "bytes on the wire, fedcore over Flower",
                ratio(ours["bytes per round"], plain["bytes per round"]),
                at_most=1.02,
            ),
            Target(
                "seconds per round, fedcore over Flower",
                ratio(ours["s per round"], plain["s per round"]),
                at_most=1.05,
            ),
        ],
    )
    report.tell(chosen.json)


def _told(side: Any, folder: Path, chosen: Any, name: str) -> dict[str, float]:
    progress(f"{name}: {chosen.rounds} rounds over {SITES} sites", chosen.json)
    write_study(folder, chosen.rounds)
    found: dict[str, float] = side(folder)
    return found


def write_study(folder: Path, rounds: int) -> None:
    """Sites with generated images, a federation on a free port, and the job for either side."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(SITES):
        label = random.integers(0, 10, ROWS)
        image = random.integers(0, 80, (ROWS, 28, 28)) + 15 * label[:, None, None]
        np.savez(folder / f"site-{i}.npz", image=image.astype(np.uint8), label=label)
        (folder / f"site-{i}.yaml").write_text(
            f"name: site-{i}\ncatalogue: {{images: {{connector: npz, path: site-{i}.npz}}}}\n"
            "policy: {rules: [{jobs: [train], data: images}]}\n"
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    names = ", ".join(f"site-{i}.yaml" for i in range(SITES))
    (folder / "federation.yaml").write_text(
        f'name: overhead\nengine: deployment\ncoordinator: {{address: "localhost:{port}"}}\nparticipants: [{names}]\n'
    )
    (folder / "job.yaml").write_text(
        "kind: train\nname: overhead\ndata: images\ntask: {use: image-classifier}\n"
        f"rounds: {rounds}\nlocal: {{lr: 0.05, batch_size: 32}}\nparticipants: {{min: {SITES}}}\n"
    )
    (folder / "plain.json").write_text(json.dumps({"rounds": rounds, "sites": SITES}))


def run_fedcore(folder: Path) -> dict[str, float]:
    """`fedcore run` on a federation that is up."""
    from fedcore.engines.run import run

    with _federation(folder) as traffic:
        ended = run(folder / "job.yaml", folder / "federation.yaml", folder=folder / "run")
        rounds = [one["elapsed"] for one in ended.json["rounds"]]
        return {"seconds": middle(rounds), "bytes": traffic()}


def run_plain(folder: Path) -> dict[str, float]:
    """The hand-written app on a federation that is up."""
    from fedcore.engines.bundle import write_app
    from fedcore.engines.deployment import deployment
    from fedcore.jobs.load import load_federation

    app = write_app(folder / "app", f"{PLAIN}:server", f"{PLAIN}:client")
    with _federation(folder, FEDCORE_CLIENT_APP=f"{PLAIN}:client") as traffic:
        home = folder / "run"
        home.mkdir()
        with deployment(load_federation(folder / "federation.yaml"), app=app) as running:
            running.run(folder / "plain.json", home)
        told = json.loads((home / "result.json").read_text())
        return {"seconds": middle(told["seconds"]), "bytes": traffic()}


@contextmanager
def _federation(folder: Path, **environment: str) -> Iterator[Any]:
    """The federation, up; gives a function that tells the bytes of its one run."""
    from fedcore.engines.federation import down, up
    from fedcore.engines.flower_commands import CONNECTION, FlowerCommands
    from fedcore.engines.plan import work_folder
    from fedcore.engines.processes import child_environment
    from fedcore.jobs.load import load_federation

    loaded = load_federation(folder / "federation.yaml")
    before = dict(os.environ)
    os.environ.update(environment, PYTHONPATH=str(ROOT))
    state = up(loaded)
    folders = work_folder(loaded)

    def traffic() -> int:
        with FlowerCommands(
            child_environment(str(state["mark"]), FLWR_HOME=str(folders.connection_home))
        ) as commands:
            (told,) = commands.require("list", CONNECTION, "--format", "json")["runs"]
        return int(told["network-traffic"]["total-bytes"])

    try:
        yield traffic
    finally:
        down(loaded)
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    main()
