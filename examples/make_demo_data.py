"""Make the ready data: five hospitals with uneven, non-identical shares, and two lists with customers in common.

Two public data sets that scikit-learn brings along, so nothing is downloaded:

- `breast-cancer`: 569 patients of the UCI Breast Cancer Wisconsin (Diagnostic) data, 30 measurements each,
  `malignant` (0 or 1) and `patient`;
- `digits`: 1797 images of the UCI Optical Recognition of Handwritten Digits data, 8 x 8 pixels, `label`.

A fifth of each, with the same share of every class, is kept as `central.parquet`. The rest goes to the
hospitals: each class's shares are drawn from a Dirichlet distribution (Hsu et al. 2019, arXiv 1909.06335).

The third, `customers`, is invented: a bank's customers and a telecom's subscribers, some of them the same people.

The files in `configs/federations/data` were made by this script; running it again gives the same rows.

    python examples/make_demo_data.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_breast_cancer, load_digits

HOSPITALS = 5
CENTRAL = 0.2
BANK, TELECOM, SHARED = 200, 210, 80
FOLDER = Path(__file__).resolve().parent.parent / "configs" / "federations" / "data"


def breast_cancer() -> pa.Table:
    """One row per patient: `patient`, 30 measurements (float64) and `malignant` (int64)."""
    data = load_breast_cancer()
    columns: dict[str, pa.Array] = {
        "patient": pa.array([f"patient-{number:04d}" for number in range(len(data.target))])
    }
    for index, name in enumerate(data.feature_names):
        columns[name.replace(" ", "_")] = pa.array(data.data[:, index])
    # scikit-learn counts malignant as 0; a person expects 1 to be the finding.
    columns["malignant"] = pa.array(1 - data.target)
    return pa.table(columns)


def digits() -> pa.Table:
    """One row per image: `image` (uint8, 8 x 8, 0 to 255) and `label` (int64)."""
    data = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    image = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(pixels))
    return pa.table({"image": image, "label": pa.array(data.target)})


def deal(labels: np.ndarray, alpha: float, seed: int) -> dict[str, np.ndarray]:
    """Which rows go where.

    Args:
        labels: The class of each row.
        alpha: Dirichlet concentration; smaller is less alike.
        seed: Of the deal.

    Returns:
        The row numbers of `central` and of `hospital-1`, `hospital-2`, ..., each in random order.
    """
    rng = np.random.default_rng(seed)
    names = ["central", *(f"hospital-{number}" for number in range(1, HOSPITALS + 1))]
    shares: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        kept = round(CENTRAL * len(rows))
        ends = np.cumsum(rng.dirichlet([alpha] * HOSPITALS))[:-1]
        cuts = kept + np.rint(ends * (len(rows) - kept)).astype(int)
        for name, share in zip(names, np.split(rows, [kept, *cuts]), strict=True):
            shares[name].append(share)
    return {name: rng.permutation(np.concatenate(parts)) for name, parts in shares.items()}


def customers(seed: int) -> dict[str, list[str]]:
    """The lines of the bank's and the telecom's CSV file: type and number of an identity document, and a column more."""
    rng = np.random.default_rng(seed)
    numbers = rng.choice(10**8, BANK + TELECOM - SHARED, replace=False)
    kinds = rng.choice(["passport", "identity"], len(numbers))
    people = [f"{kind},{number:08d}" for kind, number in zip(kinds, numbers, strict=True)]
    bank = [f"{each},{rng.integers(1990, 2026)}" for each in rng.permutation(people[:BANK])]
    telecom = [f"{each},{rng.choice(['S', 'M', 'L'])}" for each in rng.permutation(people[BANK - SHARED :])]
    return {
        "bank-a": ["id_type,id_number,since", *bank],
        "telecom-b": ["id_type,id_number,plan", *telecom],
    }


def make(folder: Path) -> None:
    """Write `<data set>/<who>.parquet`, `<data set>/central.parquet` and `customers/<who>.csv` below `folder`."""
    for name, table, target, alpha, seed in (
        ("breast-cancer", breast_cancer(), "malignant", 1.5, 33),
        ("digits", digits(), "label", 1.0, 0),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for who, rows in deal(table[target].to_numpy(), alpha, seed).items():
            pq.write_table(table.take(pa.array(rows)), folder / name / f"{who}.parquet", compression="zstd")
    (folder / "customers").mkdir(parents=True, exist_ok=True)
    for who, lines in customers(seed=7).items():
        (folder / "customers" / f"{who}.csv").write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
