"""Check the strategy, then train with it: `python examples/custom_strategy/run.py`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent


def make_data() -> None:
    """Write scikit-learn's 1,797 digit images as a table: 64 pixels and the digit."""
    digits = load_digits()
    columns = {f"p{i:02d}": digits.data[:, i] for i in range(64)}
    (HERE / "data").mkdir(exist_ok=True)
    pq.write_table(pa.table({**columns, "digit": digits.target}), HERE / "data" / "digits.parquet")


def main(folder: Path | None = None) -> None:
    """Print the conformance report and the accuracy of each round.

    Args:
        folder: The run folder; a temporary one when absent.
    """
    sys.path.insert(0, str(HERE))  # so that `steady_average:SteadyAverage` in the job is found
    import fedcore
    from fedcore.testing import check_strategy

    print(check_strategy("steady_average:SteadyAverage", parameters={"limit": 1.5}))
    make_data()
    with tempfile.TemporaryDirectory() as temporary:
        run = fedcore.run(
            HERE / "job.yaml", HERE / "federation.yaml", folder=folder or Path(temporary) / "run"
        )
        for one in run.result.metrics:
            print(f"round {one['round']}: accuracy {one['evaluate']['accuracy']:.3f}")


if __name__ == "__main__":
    main()
