"""One party of a joint model over gRPC with TLS: `python vertical_party.py PLAN`, a JSON file.

PLAN has `role` (`label` or `partner`), `model` (settings as in a job), `data` (npz: x, the codes and bins, y at the label
holder), `work` (a folder with the keys), `address` and `told`, the file that gets what was measured and found.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pydantic import TypeAdapter

from fedcore.jobs.vertical import Boosting, Logistic, Model
from fedcore.peer.grpc_channel import GrpcChannel
from fedcore.peer.listening import Listener
from fedcore.peer.tls import Peer
from fedcore.trust.identity import load_identity

DEADLINE = 60.0


def main(plan: dict[str, Any]) -> None:
    """Meet the other, fit, and write what came of it."""
    work, role = Path(plan["work"]), plan["role"]
    other = "partner" if role == "label" else "label"
    identity = load_identity(work / f"{role}.key", role)
    peer = Peer(other, (work / f"{other}.key.pub").read_text().strip())
    data = np.load(plan["data"])
    settings: Any = TypeAdapter(Model).validate_python(plan["model"])
    if role == "label":
        listener = Listener(plan["address"], identity=identity, peer=peer, session="bench")
        channel = listener.accept(DEADLINE)
    else:
        channel = GrpcChannel.connect(
            plan["address"], identity=identity, peer=peer, session="bench", deadline=DEADLINE
        )
    with channel:
        process = psutil.Process()
        start, cpu = time.perf_counter(), sum(process.cpu_times()[:2])
        found = (
            _logistic(channel, data, settings, role)
            if isinstance(settings, Logistic)
            else _boosted(channel, data, settings, role)
        )
        found["seconds"] = time.perf_counter() - start
        found["cpu"] = sum(process.cpu_times()[:2]) - cpu
        counters = channel.counters
        found["bytes"] = [counters.sent.bytes, counters.received.bytes]
        found["messages"] = counters.sent.messages
        # The other may still wait for its last message.
        channel.send("bench.end", b"")
        channel.recv("bench.end", size=0)
    Path(plan["told"]).write_text(json.dumps(found))


def _logistic(channel: Any, data: Any, settings: Logistic, role: str) -> dict[str, Any]:
    from fedcore.vertical.glm import fit_label_holder, fit_partner

    if role == "label":
        fit = fit_label_holder([channel], data["x"], data["y"], settings, _quiet)
    else:
        fit = fit_partner(channel, data["x"], settings, _quiet, True)
    return {
        "coefficients": np.asarray(fit.coefficients).tolist(),
        "intercept": float(fit.intercept),
        "iterations": fit.iterations,
    }


def _boosted(channel: Any, data: Any, settings: Boosting, role: str) -> dict[str, Any]:
    from fedcore.vertical.boosting import (
        grow_label_holder,
        grow_partner,
        predict_label_holder,
        predict_partner,
    )

    bins = data["bins"].tolist()
    columns = [np.ascontiguousarray(column) for column in data["codes"].T]
    late = [np.ascontiguousarray(column) for column in data["late"].T]
    if role == "label":
        ensemble = grow_label_holder([channel], columns, bins, data["y"], settings, 0, _quiet)
        grown = time.perf_counter()
        margins = predict_label_holder([channel], ensemble, late)
        return {"margins": np.asarray(margins).tolist(), "predicting": time.perf_counter() - grown}
    splits = grow_partner(channel, columns, bins, settings, _quiet)
    predict_partner(channel, splits, late)
    return {}


def _quiet(phase: str, done: int, of: int) -> None:
    """Nobody watches."""


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
