"""Results as a coordinator writes them, made without one: plausible, of any size, repeatable by seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.trust import evidence

LAYERS = {"evidence": "digest", "policy": "on", "disclosure": "off", "privacy": "off", "protection": "off"}
JOB_YAML = "kind: train\nname: hospital-tabular\ndata: breast-cancer\n"


def make_result(
    *,
    sites: int = 5,
    rounds: int = 12,
    planned: int | None = None,
    status: str = "finished",
    engine: str = "embedded",
    baselines: bool = True,
    central: bool = True,
    metrics: int = 3,
    losses: bool = True,
    seed: int = 7,
) -> dict[str, Any]:
    """A `result.json` object.

    Args:
        sites: Participants.
        rounds: Completed rounds.
        planned: Rounds the job asked for; as many as completed when absent.
        status: `finished`, `stopped-early`, `interrupted`, `refused` or `failed`.
        engine: `embedded`, `simulation` or `deployment`.
        baselines: Whether local-only and pooled models were trained, measured on each site's own rows.
        central: Whether the coordinator evaluates too.
        metrics: Loss, accuracy, auc, then as many more as asked.
        losses: Whether a participant misses a round.
        seed: Of the made-up numbers.
    """
    rng = np.random.default_rng(seed)
    names = [f"hospital-{i + 1}" for i in range(sites)]
    rows = rng.integers(60, 180, size=sites)
    skill = rng.normal(0, 0.012, size=sites)
    members = [
        {
            "name": name,
            "rows": int(n),
            "train_rows": int(n * 0.8),
            "validation_rows": int(n) - int(n * 0.8),
            "layers": dict(LAYERS),
        }
        for name, n in zip(names, rows, strict=True)
    ]
    made = [_round(rng, number, names, rows, skill, metrics, central) for number in range(1, rounds + 1)]
    if losses and rounds > 4 and sites > 1:
        _lose(made[3], names[-1], "no reply within its deadline of 600 s")
    result: dict[str, Any] = {
        "fedcore": "0.1.0",
        "kind": "train",
        "name": "hospital-tabular",
        "run": "hospital-tabular-20261121-052000",
        "engine": engine,
        "status": status,
        "reason": None,
        "started": "2026-11-21T05:20:00+00:00",
        "seconds": round(sum(sum(each["seconds"].values()) for each in made) + 1.7, 3),
        "job": make_job(planned or max(rounds, 1)),
        "protection": {"secure_aggregation": "none"},
        "participants": members,
        "left_out": [],
        "warnings": [],
        "model": {"file": "model.safetensors", "parameters": 4162, "bytes": 16648},
        "rounds": made,
        "final": None,
        "baselines": None,
        "best": None,
    }
    if made:
        last = made[-1]
        result["final"] = {
            "round": rounds,
            "evaluate": last["evaluate"],
            "central": last["central"],
            "sites": {name: s["evaluate"] for name, s in last["sites"].items() if "evaluate" in s},
        }
        result["best"] = {"round": rounds, "metric": "accuracy", "value": last["evaluate"]["accuracy"]}
        if baselines:
            result["baselines"] = _baselines(rng, last)
    return result


def make_job(rounds: int) -> dict[str, Any]:
    """A job with all defaults filled in."""
    return {
        "kind": "train",
        "name": "hospital-tabular",
        "data": "breast-cancer",
        "purpose": "research",
        "participants": {"min": 3, "names": None, "fraction": 1.0},
        "task": {
            "use": "tabular-classifier",
            "target": "malignant",
            "features": None,
            "model": "mlp",
            "hidden": [64, 32],
            "standardize": "federated",
        },
        "strategy": {"use": "fedadam", "server_lr": 0.03},
        "rounds": rounds,
        "local": {"epochs": 1, "batch_size": 32, "lr": 0.01, "optimizer": "sgd", "device": "auto"},
        "evaluation": {"every": 1, "central": None},
        "protection": {"secure_aggregation": "none"},
        "stop": {"metric": "accuracy", "patience": 5, "mode": "auto", "min_delta": 0.0},
        "baselines": ["local", "pooled"],
        "deadline": 600.0,
        "seed": 7,
    }


def write_run(folder: Path, result: dict[str, Any]) -> Path:
    """A run folder with this result, its job and federation files, a model and an evidence log."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    (folder / "job.yaml").write_text(JOB_YAML, encoding="utf-8")
    (folder / "federation.yaml").write_text("name: five-hospitals\n", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    log = folder / "evidence" / "coordinator.jsonl"
    log.unlink(missing_ok=True)
    for event in ("asked", "received", "run ended"):
        evidence.append(log, {"event": event}, durable=False)
    return folder


def _round(
    rng: np.random.Generator,
    number: int,
    names: list[str],
    rows: np.ndarray,
    skill: np.ndarray,
    metrics: int,
    central: bool,
) -> dict[str, Any]:
    reached = 0.958 - 0.36 * np.exp(-number / 2.6)
    per_site = np.clip(reached + skill + rng.normal(0, 0.008, size=len(names)), 0, 1)
    loss = 1.7 * (1 - per_site) + 0.05
    sites = {}
    for name, n, accuracy, lost in zip(names, rows, per_site, loss, strict=True):
        values = {"loss": float(lost), "accuracy": float(accuracy), "auc": float(min(1.0, accuracy + 0.025))}
        values |= {f"metric-{extra}": float(accuracy * (1 - extra / 50)) for extra in range(3, metrics)}
        sites[name] = {
            "train": {"loss": float(lost * 0.85)},
            "evaluate": values,
            "seconds": {"train": float(0.0008 * n + rng.uniform(0, 0.02)), "evaluate": 0.011},
            "bytes": {"down": 33870, "up": 17120},
            "examples": int(n * 0.8),
        }
    weights = rows / rows.sum()
    mean = {
        key: float(sum(w * site["evaluate"][key] for w, site in zip(weights, sites.values(), strict=True)))
        for key in sites[names[0]]["evaluate"]
    }
    return {
        "round": number,
        "seconds": {
            "train": float(0.11 + rng.uniform(0, 0.05)),
            "evaluate": float(0.03 + rng.uniform(0, 0.01)),
        },
        "bytes": {"down": 33870 * len(names), "up": 17120 * len(names)},
        "train": {"loss": mean["loss"] * 0.85},
        "evaluate": mean,
        "central": {"accuracy": mean["accuracy"] - 0.006, "loss": mean["loss"] + 0.02} if central else None,
        "sites": sites,
        "lost": [],
    }


def _lose(made: dict[str, Any], party: str, reason: str) -> None:
    sent = made["sites"][party]["bytes"]["down"]
    made["sites"][party] = {"bytes": {"down": sent, "up": 0}, "seconds": {"train": 600.0}}
    made["lost"].append(
        {"party": party, "step": f"train round {made['round']}", "kind": "NoReply", "reason": reason}
    )


def _baselines(rng: np.random.Generator, last: dict[str, Any]) -> dict[str, Any]:
    local = {}
    for name, site in last["sites"].items():
        gap = float(rng.uniform(0.005, 0.075))
        local[name] = {
            "accuracy": site["evaluate"]["accuracy"] - gap,
            "loss": site["evaluate"]["loss"] + 2 * gap,
        }
    federated = {key: last["evaluate"][key] for key in ("accuracy", "loss")}
    return {
        "measured_on": "each site's own validation rows",
        "metric": "accuracy",
        "local": local,
        "pooled": {"accuracy": federated["accuracy"] + 0.004, "loss": federated["loss"] - 0.011},
        "federated": federated,
    }
