"""What client-level differential privacy costs a model: handwritten digits over 1,000 simulated participants.

    python benchmarks/private_training.py --json
    python benchmarks/private_training.py --participants 200 --rounds 5      # a trial of the way, not of the figures

The data are scikit-learn's digits (1,797 images of 8 x 8), four fifths of them dealt to the participants, so that most
have one row and the others two; the rest is what models are judged by. Each job is run on the embedded engine, every
participant in every round: once as it is, once under `secagg+` with noise in shares. The same model, rounds, strategy and
local training serve both. They, and the clip, were chosen on these data, for which nothing is charged here: on data of
one's own, trying out costs budget too. The relation is that of DP-FedAvg's authors (a participant is there or not); with
`--neighbours replace`, which asks for twice the noise, or against a coordinator that lies (`--adversary active`, twice the
time or more) the figures are others.
"""

from __future__ import annotations

import shutil
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import WORK, Report, Target, machine, parser, progress

DELTA = 1e-5
SHARE = 0.8
_JOB = """\
kind: train
name: digits
data: digits
participants: {{min: {least}}}
task: {{use: tabular-classifier, target: label, model: {model}, standardize: none}}
strategy: {{use: fedavgm, momentum: {momentum}}}
rounds: {rounds}
local: {{epochs: {epochs}, batch_size: 32, lr: {lr}, validation: 0}}
evaluation: {{every: {rounds}, federated: false, central: {{connector: parquet, path: test.parquet}}}}
protection: {protection}
seed: {seed}
"""


def main(arguments: list[str] | None = None) -> Report:
    """Measure and tell."""
    options = parser(__doc__)
    options.add_argument("--participants", type=int, default=1000)
    options.add_argument("--epsilon", type=float, default=8.0)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--lr", type=float, default=2.0)
    options.add_argument("--clip", type=float, default=4.0)
    options.add_argument("--clipping", choices=("fixed", "adaptive"), default="fixed")
    options.add_argument("--model", choices=("logistic", "mlp"), default="logistic")
    options.add_argument("--momentum", type=float, default=0.9, help="of the server (fedavgm)")
    options.add_argument("--neighbours", choices=("replace", "add-remove"), default="add-remove")
    options.add_argument("--adversary", choices=("curious", "active"), default="curious")
    options.add_argument(
        "--plain-rounds", type=int, default=0, help="of the job without privacy; as many if 0"
    )
    options.add_argument("--seeds", type=int, nargs="+", default=[1])
    options.add_argument("--folder", type=Path, default=WORK / "private_training")
    given = options.parse_args(arguments)
    report = Report(
        "private_training",
        {
            "data": "scikit-learn digits, 1,437 rows dealt to the participants, 360 to judge by",
            **{
                name: getattr(given, name)
                for name in [
                    "participants",
                    "epsilon",
                    "rounds",
                    "epochs",
                    "lr",
                    "clip",
                    "clipping",
                    "model",
                    "momentum",
                    "neighbours",
                    "adversary",
                ]
            },
            "delta": DELTA,
            "secure_aggregation": "secagg+, 5 % may drop out, 5 % may tell their noise",
            "tuned": "on these data, by hand",
            "machine": machine(),
        },
    )
    folder = given.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _data(folder, given.participants)
    gaps, apart = [], []
    for seed in given.seeds:
        plain = _run(folder, f"plain-{seed}", given, seed, "{}", given.plain_rounds or given.rounds)
        private = _run(folder, f"private-{seed}", given, seed, _protection(given), given.rounds)
        told = private["privacy"]
        gaps.append(plain["accuracy"] - private["accuracy"])
        apart.append(told["accountants"]["apart"])
        report.figures.append(
            {
                "seed": seed,
                "accuracy": plain["accuracy"],
                "accuracy, private": private["accuracy"],
                "seconds": plain["seconds"],
                "seconds, private": private["seconds"],
                "epsilon, PLD": told["accountants"]["pld"],
                "epsilon, Fourier": told["accountants"]["fourier"],
                "epsilon, RDP": told["accountants"]["rdp"],
                "noise / sensitivity": told["noise_multiplier"],
                "MiB up a round": private["up"],
            }
        )
    report.targets += [
        Target("accuracy_gap", float(np.mean(gaps)), at_most=0.02),
        Target("accountants_apart", max(apart), at_most=0.01),
    ]
    report.tell(given.json)
    return report


def _data(folder: Path, participants: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    cut = int(SHARE * len(labels))
    for name, rows in (("train", order[:cut]), ("test", order[cut:])):
        columns: dict[str, Any] = {
            f"p{at:02}": (images[rows, at] / 16).astype(np.float32) for at in range(images.shape[1])
        }
        pq.write_table(pa.table({**columns, "label": labels[rows]}), folder / f"{name}.parquet")
    (folder / "federation.yaml").write_text(
        textwrap.dedent(f"""\
            name: private-digits
            virtual:
              count: {participants}
              name: digits
              data: {{connector: parquet, path: train.parquet}}
              policy:
                rules: [{{jobs: [train], data: digits, min_cohort: 1, min_rows: 1}}]
                secure_aggregation: {{adversary: curious}}
            """)
    )


def _protection(given: Any) -> str:
    clipping = f"clip: {given.clip}, clipping: {given.clipping}, neighbours: {given.neighbours}"
    promise = f"level: client, epsilon: {given.epsilon}, delta: {DELTA:f}, {clipping}"
    classes = ", ".join(map(str, range(10)))
    sums = f"{{protocol: secagg+, dropout: 0.05, adversary: {given.adversary}}}"
    return f"{{secure_aggregation: {sums}, differential_privacy: {{{promise}, classes: [{classes}]}}}}"


def _run(folder: Path, name: str, given: Any, seed: int, protection: str, rounds: int) -> dict[str, Any]:
    import fedcore

    job = folder / f"{name}.yaml"
    job.write_text(
        _JOB.format(
            least=given.participants,
            model=given.model,
            momentum=given.momentum,
            rounds=rounds,
            epochs=given.epochs,
            lr=given.lr,
            protection=protection,
            seed=seed,
        )
    )
    progress(f"{name}: {rounds} rounds over {given.participants} participants", given.json)
    began = time.perf_counter()
    told = fedcore.run(job, folder / "federation.yaml", engine="embedded", folder=folder / name).json
    return {
        "accuracy": told["final"]["central"]["accuracy"],
        "seconds": time.perf_counter() - began,
        "privacy": told.get("privacy"),
        "up": told["rounds"][-1]["bytes"]["up"] / 2**20,
    }


if __name__ == "__main__":
    main()
