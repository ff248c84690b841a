"""The example of secure aggregation in a plain Flower app, on the in-process grid."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.engines.embedded import EmbeddedGrid, Node

FILE = Path(__file__).parents[2] / "examples" / "secure_plain_flower" / "app.py"


@pytest.mark.parametrize("protocol", ["secagg+", "threshold"])
def test_the_example_finds_the_truth_and_its_server_saw_sums_only(protocol: Any) -> None:
    spec = importlib.util.spec_from_file_location("secure_plain_flower_app", FILE)
    assert spec is not None and spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    engine = EmbeddedGrid(app.client, [Node({"partition-id": i}, {}) for i in range(5)])
    grid = SecureAggregationGrid(engine, protocol=protocol)
    np.testing.assert_allclose(app.learn(grid), app.TRUTH, atol=0.1)
    assert grid.account.summed == 5
    engine.close()
