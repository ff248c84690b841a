"""Joint models of two parties on this machine: a logistic regression and boosted trees over gRPC with mutual TLS.

    python benchmarks/vertical.py --uci default_credit.csv --json

Both parties are processes that share the cores. With `--uci` the rows are those of the UCI default data (30,000; credit
limit, sex, education, marriage, age and the label at the bank, payments and bills at the partner), else as many invented
customers. Pooled references are fitted in this process: scikit-learn and LightGBM on all columns at once.

Beside it stands phe used plainly, one ciphertext for each value at 3072 bits: what its single operations take is measured in
the same run and multiplied by how many the same protocol needs at least; nobody waits for days.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from benchmarks.common import ROOT, SIDES, WORK, Figure, Report, Target, machine, parser, progress, ratio
from benchmarks.measure import MeasurementFailed, middle, tail, use_cores
from benchmarks.psi import _free_ports
from examples.bank_risk.customers import invented, uci
from examples.bank_risk.run import PARTIES, reports
from fedcore.trust.identity import new_identity

LINE, LATENCY = 100e6, 0.020
TREES = {"use": "boosting", "trees": 20, "depth": 5, "lr": 0.3, "bins": 32}
LINEAR = {"use": "logistic", "on": "values", "l2": 1.0}
PASSES = 40
BITS = 3072
DEADLINE = 900.0

Measured = dict[str, Any]


def main(arguments: list[str] | None = None) -> Report:
    """Measure and tell."""
    options = parser(__doc__)
    options.add_argument(
        "--uci", type=Path, help="CSV of the UCI default data; invented customers without it"
    )
    options.add_argument("--customers", type=int, default=20_000, help="invented ones (20000)")
    given = options.parse_args(arguments)
    given.cores = use_cores(given.cores)
    folder = WORK / "vertical"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("label", "partner"):
        new_identity(folder / f"{name}.key", name)
    joined = _data(given)
    report = Report(
        "vertical",
        {
            "rows": "UCI default data" if given.uci else "invented customers",
            "columns": {"label holder": joined["bank"].shape[1], "partner": joined["partner"].shape[1]},
            "split": "a fifth is for testing, stratified",
            "logistic": {**LINEAR, "iterations": PASSES},
            "boosting": TREES,
            "phe": f"{BITS} bits, one ciphertext for each value; operations measured, their number counted",
            "projection": "seconds measured, bytes both ways at 100 Mbit/s, and 20 ms for each message of the label holder, "
            "as if none went beside another",
            "repeats": given.repeats,
            "machine": machine(),
        },
    )
    plain = _plain(given)
    _linear(given, joined, folder, plain, report)
    _trees(given, joined, folder, plain, report)
    _whole(given, folder / "example", report)
    report.tell(given.json)
    return report


def _data(given: Any) -> dict[str, Any]:
    """Matched rows as numbers, and which are for testing."""
    import pandas as pd

    bank, partner = uci(given.uci) if given.uci else invented(given.customers)
    both = pd.merge(bank.to_pandas(), partner.to_pandas(), on="id_number")
    label = both["default_90d"].to_numpy(float)

    def numbers(names: list[str]) -> np.ndarray:
        kept = both[[name for name in names if name in both and name not in ("id_number", "default_90d")]]
        kept = kept.select_dtypes("number").astype(float)
        return kept.fillna(kept.median()).to_numpy()

    train, test = train_test_split(np.arange(len(both)), test_size=0.2, stratify=label, random_state=0)
    return {
        "bank": numbers(list(bank.column_names)),
        "partner": numbers(list(partner.column_names)),
        "y": label,
        "train": train,
        "test": test,
    }


# ---- logistic regression --------------------------------------------------------------------------------------------


def _linear(given: Any, data: Any, folder: Path, plain: Measured, report: Report) -> None:
    train, test, y = data["train"], data["test"], data["y"]
    sides = {name: _standard(data[name], train) for name in ("bank", "partner")}
    roles = (("label", "bank"), ("partner", "partner"))
    both = np.hstack([sides["bank"], sides["partner"]])
    pooled = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(both[train], y[train])
    # A pass goes over all rows; what is compared with the pooled fit, over those for training.
    for role, name in roles:
        np.savez(folder / f"{role}.npz", x=sides[name], y=y)
    passes = []
    for number in range(given.repeats):
        progress(f"logistic regression, one pass, repeat {number + 1}", given.json)
        passes.append(_pair(folder, {**LINEAR, "iterations": 1}))
    for role, name in roles:
        np.savez(folder / f"{role}.npz", x=sides[name][train], y=y[train])
    progress(f"logistic regression, {PASSES} passes", given.json)
    whole = _pair(folder, {**LINEAR, "iterations": PASSES})
    found = np.concatenate([whole["label"]["coefficients"], whole["partner"]["coefficients"]])
    own = roc_auc_score(y[test], both[test] @ found)
    theirs = roc_auc_score(y[test], both[test] @ pooled.coef_[0])
    alone = LogisticRegression(max_iter=1000).fit(sides["bank"][train], y[train])
    of_bank = roc_auc_score(y[test], sides["bank"][test] @ alone.coef_[0])
    off = float(np.abs(found - pooled.coef_[0]).max())
    once = middle([one["seconds"] for one in passes])
    rows, columns = both.shape
    # Two products over all columns, and the residuals of all rows under encryption at both.
    peer = 2 * rows * columns * (plain["multiply"] + plain["add"]) + 2 * rows * (
        plain["encrypt"] + plain["decrypt"]
    )
    report.figures += [
        _row("logistic, one pass with keys and preparation", passes[0], rows, columns, seconds=once),
        _row(f"logistic, {PASSES} passes", whole, len(train), columns, auc=own, largest=off),
        {
            "part": "logistic",
            "what": "pooled, scikit-learn",
            "rows": len(train),
            "columns": columns,
            "test AUC": theirs,
        },
        {"part": "logistic", "what": "the bank's columns alone", "rows": len(train), "test AUC": of_bank},
        {"part": "logistic", "what": "phe used plainly, one pass, counted", "rows": rows, "seconds": peer},
    ]
    report.targets += [
        Target("logistic: largest difference of a coefficient from scikit-learn's", off, at_most=1e-3),
        Target("logistic: difference of the test AUC from scikit-learn's", abs(own - theirs), at_most=0.002),
        Target(f"logistic: seconds of one pass over {len(y):,} x {columns}", once, at_most=10),
        Target("logistic: times faster than phe used plainly, one pass", ratio(peer, once), at_least=30),
    ]


def _standard(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """With mean 0 and deviation 1 over the training rows."""
    return (values - values[train].mean(0)) / values[train].std(0)


# ---- boosted trees --------------------------------------------------------------------------------------------------


def _trees(given: Any, data: Any, folder: Path, plain: Measured, report: Report) -> None:
    train, test, y = data["train"], data["test"], data["y"]
    codes, bins = {}, {}
    for name in ("bank", "partner"):
        codes[name], bins[name] = _binned(data[name], train, TREES["bins"])
    for role, name in (("label", "bank"), ("partner", "partner")):
        kept = codes[name]
        np.savez(folder / f"{role}.npz", codes=kept[train], late=kept[test], bins=bins[name], y=y[train])
    progress("boosted trees", given.json)
    runs = [_pair(folder, TREES) for _ in range(given.repeats)]
    own = roc_auc_score(y[test], np.array(runs[0]["label"]["margins"]))
    both = np.hstack([codes["bank"], codes["partner"]])
    seconds = middle([one["seconds"] for one in runs])
    rows, columns = len(train), codes["partner"].shape[1]
    nodes = sum(2 ** max(level - 1, 0) for level in range(TREES["depth"]))
    cells = int(bins["partner"].sum())
    # Each tree: two ciphertexts for each row, half of the rows added at each level below the first, and what is decrypted.
    adds = rows * columns * (1 + (TREES["depth"] - 1) / 2)
    peer = TREES["trees"] * (
        2 * rows * plain["encrypt"] + 2 * adds * plain["add"] + 2 * nodes * cells * plain["decrypt"]
    )
    report.figures += [
        _row("boosting, growing and predicting", runs[0], rows, columns, seconds=seconds, auc=own),
        {"part": "boosting", "what": "phe used plainly, counted", "rows": rows, "seconds": peer},
    ]
    theirs = _lightgbm(both, y, train, test, report)
    alone = _lightgbm(codes["bank"], y, train, test, report, name="the bank's columns alone, LightGBM")
    if theirs is not None and alone is not None:
        report.settings["uplift of the test AUC over the bank alone"] = round(own - alone, 4)
    off = None if theirs is None else abs(own - theirs)
    report.targets += [
        Target("boosting: difference of the test AUC from LightGBM's", off, at_most=0.003),
        Target(
            f"boosting: seconds of {TREES['trees']} trees of depth {TREES['depth']}", seconds, at_most=120
        ),
        Target("boosting: times faster than phe used plainly", ratio(peer, seconds), at_least=30),
    ]


def _binned(values: np.ndarray, train: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes by quantiles of the training rows, and how many each column has."""
    made = np.empty(values.shape, dtype=np.uint8)
    counts = []
    for number, column in enumerate(values.T):
        edges = np.unique(np.quantile(column[train], np.linspace(0, 1, most + 1)[1:-1]))
        made[:, number] = np.searchsorted(edges, column, side="right")
        counts.append(len(edges) + 1)
    return made, np.array(counts)


def _lightgbm(
    codes: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    report: Report,
    name: str = "LightGBM",
) -> float | None:
    """The test AUC on the same bins; None where the package is not installed."""
    try:
        import lightgbm
    except ImportError:
        report.absent[name] = "not installed: pip install 'fedcore[bench]'"
        return None
    settings = {
        "objective": "binary", "learning_rate": TREES["lr"], "max_depth": TREES["depth"],
        "num_leaves": 2 ** TREES["depth"], "lambda_l2": 1.0, "min_data_in_leaf": 20, "max_bin": 255,
        "min_data_in_bin": 1, "num_threads": 2, "verbose": -1, "seed": 0,
    }  # fmt: skip
    made = lightgbm.train(settings, lightgbm.Dataset(codes[train].astype(float), y[train]), TREES["trees"])
    found = float(roc_auc_score(y[test], made.predict(codes[test].astype(float))))
    report.figures.append({"part": "boosting", "what": f"{name}, {lightgbm.__version__}", "test AUC": found})
    return found


# ---- the example, and new customers ---------------------------------------------------------------------------------


def _whole(given: Any, folder: Path, report: Report) -> None:
    """The example in one command, then scores of new customers from a party that serves its part."""
    progress("the bank example, from two files to two reports", given.json)
    start = time.perf_counter()
    _command([str(ROOT / "examples" / "bank_risk" / "run.py"), "--folder", str(folder)])
    seconds = time.perf_counter() - start
    progress("scores of new customers", given.json)
    keys = {name: new_identity(folder / f"{name}.key", name).public_line for name in PARTIES}
    for name in PARTIES:
        file = folder / f"{name}.yaml"
        told = yaml.safe_load(file.read_text())
        told["identity"] = f"{name}.key"
        told["peers"] = {other: {"public_key": key} for other, key in keys.items() if other != name}
        file.write_text(yaml.safe_dump(told))
    rows = pq.read_table(folder / "data" / "bank.parquet").drop_columns(["default_90d"])
    pq.write_table(rows, folder / "new.parquet")
    models = {name: path.parent / "packages" / "champion" for name, path in reports(folder).items()}
    address = f"127.0.0.1:{_free_ports(1)[0]}"
    fedcore = ["-m", "fedcore"]
    # The run was on one machine and had no keys to seal its models with.
    serving = [*fedcore, "serve", str(folder / "telecom-b.yaml"), "--model", str(models["telecom-b"])]
    with (folder / "serve.log").open("wb") as log:
        served = subprocess.Popen(
            [sys.executable, *serving, "--listen", address, "--unsigned"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        asking = [
            *fedcore,
            "score",
            str(folder / "bank-a.yaml"),
            "--model",
            str(models["bank-a"]),
            "--at",
            address,
        ]
        asking += ["--in", str(folder / "new.parquet"), "--out", str(folder / "scores.csv"), "--unsigned"]
        told = json.loads(_command([*asking, "--single", "2000", "--json"]))
    finally:
        served.kill()
        served.wait()
    report.figures += [
        {
            "part": "the example",
            "what": f"{rows.num_rows:,} customers, one command, embedded",
            "seconds": seconds,
        },
        {
            "part": "new customers",
            "what": "scorecard, one at a time over gRPC with TLS",
            "requests": told["single"]["requests"],
            "p50 ms": told["single"]["p50_ms"],
            "p99 ms": told["single"]["p99_ms"],
        },
    ]
    report.targets.append(Target("the example, from two files to reports: seconds", seconds, at_most=300))


def _command(words: list[str]) -> str:
    """Run Python with these words; what it printed.

    Raises:
        MeasurementFailed: It failed.
    """
    ended = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if ended.returncode != 0:
        raise MeasurementFailed(f"{' '.join(words)} failed:\n{(ended.stdout + ended.stderr)[-2000:]}")
    return ended.stdout


# ---- phe, and two processes -----------------------------------------------------------------------------------------


def _plain(given: Any) -> Measured:
    """Seconds of single operations of phe."""
    from phe import paillier

    progress(f"phe, {BITS} bits: single operations", given.json)
    public, private = paillier.generate_paillier_keypair(n_length=BITS)
    values = [0.001 * number + 0.1 for number in range(20)]

    def each(work: Any) -> float:
        start = time.perf_counter()
        for value in values:
            work(value)
        return (time.perf_counter() - start) / len(values)

    encrypted = [public.encrypt(value, precision=1e-6) for value in values]
    other = iter(encrypted * 8)
    return {
        "encrypt": each(lambda value: public.encrypt(value, precision=1e-6)),
        "decrypt": each(lambda value: private.decrypt(next(other))),
        "add": each(lambda value: next(other) + encrypted[0]),
        "multiply": each(lambda value: next(other) * value),
    }


def _pair(folder: Path, model: dict[str, Any]) -> Measured:
    """Both parties as processes.

    Raises:
        MeasurementFailed: One of them failed.
    """
    address = f"127.0.0.1:{_free_ports(1)[0]}"
    processes = {}
    for role in ("label", "partner"):
        plan = {
            "role": role,
            "model": model,
            "data": str(folder / f"{role}.npz"),
            "work": str(folder),
            "address": address,
            "told": str(folder / f"{role}.json"),
        }
        (folder / f"{role}.plan.json").write_text(json.dumps(plan))
        with (folder / f"{role}.log").open("wb") as log:
            processes[role] = subprocess.Popen(
                [sys.executable, str(SIDES / "vertical_party.py"), str(folder / f"{role}.plan.json")],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ,
            )
    try:
        for role, process in processes.items():
            if process.wait(DEADLINE) != 0:
                raise MeasurementFailed(f"the {role} party failed:\n{tail(folder / f'{role}.log')}")
    finally:
        for process in processes.values():
            process.kill()
    told = {role: json.loads((folder / f"{role}.json").read_text()) for role in processes}
    return {"seconds": max(one["seconds"] for one in told.values()), **told}


def _row(
    what: str, run: Measured, rows: int, columns: int, *, seconds: float | None = None, auc: float | None = None,
    largest: float | None = None,
) -> Figure:  # fmt: skip
    taken = run["seconds"] if seconds is None else seconds
    sent, received = run["label"]["bytes"]
    row: Figure = {
        "part": what.partition(",")[0],
        "what": what.partition(", ")[2],
        "rows": rows,
        "columns": columns,
        "seconds": taken,
        "cpu s": [run["label"]["cpu"], run["partner"]["cpu"]],
        "MB from the label holder": sent / 1e6,
        "MB to it": received / 1e6,
        f"seconds at {LINE / 1e6:.0f} Mbit/s, {LATENCY * 1e3:.0f} ms": taken
        + (sent + received) * 8 / LINE
        + run["label"]["messages"] * LATENCY,
    }
    if auc is not None:
        row["test AUC"] = auc
    if largest is not None:
        row["largest difference of a coefficient"] = largest
    return row


if __name__ == "__main__":
    main()
