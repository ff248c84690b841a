"""The floor: the optimizer steps of the image training alone, in a plain torch loop, nothing federated.

    python torch_images.py WORKERS settings.json told.json

Each of WORKERS threads trains its share of each round's users, one after the other, on one model; with one
worker torch may use every core for each operation, with as many workers as cores it uses one each.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from images import small_cnn, told_and_settings, user
from torch import nn
from torch.nn import functional


def steps(model: nn.Module, settings: dict[str, Any], users: range) -> None:
    """One local epoch for each user."""
    model.train()
    size = settings["batch-size"]
    for number in users:
        x, y = user(settings, number)
        optimizer = torch.optim.SGD(model.parameters(), lr=settings["lr"])
        for start in range(0, len(y), size):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x[start : start + size]), y[start : start + size])
            loss.backward()
            optimizer.step()


def main() -> None:
    """Time each round."""
    told, settings = told_and_settings()
    workers = int(sys.argv[1])
    torch.set_num_threads(max(1, settings["cores"] // workers))
    models = [small_cnn() for _ in range(workers)]
    ends = [time.time()]
    with ThreadPoolExecutor(workers) as pool:
        for number in range(settings["rounds"]):
            first = number * settings["cohort"] % settings["participants"]
            shares = [range(first + k, first + settings["cohort"], workers) for k in range(workers)]
            list(pool.map(steps, models, [settings] * workers, shares))
            ends.append(time.time())
    told.write_text(json.dumps({"ends": ends, "central": []}))


if __name__ == "__main__":
    main()
