"""Customers of a bank and of a telecom: invented ones, or those of the UCI default data cut in two.

The invented ones come from this description, and nothing else:

- A customer has three hidden traits, standard normal: `strain` (money is short), `habit` (pays late) and `means` (earns well).
  `strain` falls with `means`: -0.5 of it, and the rest is chance.
- The bank sees `means` and `strain` through income, use of the credit line and inquiries; the telecom sees `habit` and
  `strain` through late bills, top-ups and the way that bills go. Each column is a trait with noise of its own.
- Log-odds of a default within 90 days: `BASE + 0.75 strain + 0.85 habit - 0.35 means`, and 0.15 more for a customer of
  whom no history is known. 1 or 0 is drawn from that.
- Of the bank's customers four in five are the telecom's too; a quarter as many as the bank has are the telecom's alone.
- From `LATE` on, strain is 0.1 higher: what is kept out of time is not quite like what is learned from.

    python examples/bank_risk/customers.py FOLDER [--customers 20000] [--uci default_credit.csv]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

CUSTOMERS, SHARED, SEED = 20_000, 0.8, 11
BASE, LATE = -2.6, "2026-07"
MONTHS = tuple(f"2026-{month:02d}" for month in range(1, 10))
NO_HISTORY = -1
"""What `arrears` says where the bank knows no history."""

BANK_UCI = ("LIMIT_BAL", "SEX", "EDUCATION", "MARRIAGE", "AGE")
LABEL_UCI = "default.payment.next.month"


def invented(customers: int = CUSTOMERS, seed: int = SEED) -> tuple[pa.Table, pa.Table]:
    """What the bank has, and what the telecom has.

    Args:
        customers: Of the bank.
        seed: Of the draw; it is data, not a secret.
    """
    rng = np.random.default_rng(seed)
    people = customers + customers // 4
    ids = np.array([f"{number:08d}" for number in rng.permutation(10_000_000)[:people]])
    month = np.array(MONTHS)[rng.integers(len(MONTHS), size=people)]
    means, habit = rng.normal(size=(2, people))
    strain = -0.5 * means + np.sqrt(0.75) * rng.normal(size=people) + 0.1 * (month >= LATE)
    history = rng.random(people) > 0.12
    odds = BASE + 0.75 * strain + 0.85 * habit - 0.35 * means + 0.15 * ~history
    bad = rng.random(people) < 1 / (1 + np.exp(-odds))

    def noise(size: float) -> np.ndarray:
        return size * rng.normal(size=people)

    income = np.round(np.exp(9.0 + 0.45 * means + noise(0.2)), -2)
    income[rng.random(people) < 0.06] = np.nan
    use = np.clip(0.45 + 0.18 * strain + noise(0.15), 0, 1.3)
    arrears = np.where(history, rng.poisson(np.exp(-1.6 + 0.5 * strain + 0.3 * habit)), NO_HISTORY)
    product = np.array(["card", "instalment", "auto", "mortgage"])[
        np.clip(np.round(1.2 + 0.5 * means + noise(0.7)), 0, 3).astype(int)
    ]
    bank = {
        "id_number": ids,
        "month": month,
        "age": np.clip(np.round(41 + 5 * means + noise(11)), 18, 80),
        "income": income,
        "credit_limit": np.round(np.exp(10.2 + 0.35 * means + noise(0.4)), -3),
        "utilisation": np.round(use, 3),
        "inquiries": rng.poisson(np.exp(0.1 + 0.35 * strain)),
        "months_on_book": np.round(rng.gamma(2.0, 18.0, size=people)),
        "arrears": arrears.astype(np.int64),
        "product": product,
        "branch": rng.integers(100, 140, size=people).astype(str),
        "default_90d": bad.astype(np.int64),
    }
    device = np.round(np.exp(7.8 + 0.3 * means + noise(0.4)), -1)
    device[rng.random(people) < 0.2] = np.nan
    bill = np.exp(4.4 + 0.2 * means + noise(0.35))
    telecom = {
        "id_number": ids,
        "tenure": np.round(rng.gamma(2.2, 20.0, size=people)),
        "bill": np.round(bill, 1),
        "bill_yearly": np.round(12 * bill + noise(9.0)),
        "bill_trend": np.round(0.05 * strain + noise(0.12), 3),
        "late_bills": rng.poisson(np.exp(-0.7 + 0.75 * habit)),
        "longest_delay": np.round(np.clip(4 + 5 * habit + noise(4.0), 0, None)),
        "top_ups": rng.poisson(np.exp(0.8 + 0.35 * strain + 0.1 * habit)),
        "data_gb": np.round(rng.gamma(2.0, 6.0, size=people), 1),
        "night_share": np.round(np.clip(0.2 + 0.05 * habit + noise(0.08), 0, 1), 3),
        "contacts": rng.poisson(np.exp(3.4 - 0.1 * strain + noise(0.3))),
        "plan": np.array(["basic", "family", "flat"])[rng.integers(3, size=people)],
        "device_price": device,
    }
    at_bank = np.arange(people) < customers
    at_telecom = ~at_bank | (rng.random(people) < SHARED)
    return _shuffled(bank, at_bank, rng), _shuffled(telecom, at_telecom, rng)


def uci(path: Path) -> tuple[pa.Table, pa.Table]:
    """The UCI default data in two: about the customer and the label at one party, payments and bills at the other.

    Args:
        path: `default of credit card clients` as CSV (Yeh and Lien 2009; UCI Machine Learning Repository, 350; CC BY 4.0).
    """
    table = pyarrow.csv.read_csv(path)
    key = pa.array([f"{number:08d}" for number in table["ID"].to_pylist()])
    bank = {"id_number": key, **{name: table[name] for name in BANK_UCI}, "default_90d": table[LABEL_UCI]}
    others = [name for name in table.column_names if name not in ("ID", LABEL_UCI, *BANK_UCI)]
    return pa.table(bank), pa.table({"id_number": key, **{name: table[name] for name in others}})


def write(folder: Path, bank: pa.Table, telecom: pa.Table) -> None:
    """Both files, `bank.parquet` and `telecom.parquet`."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(bank, folder / "bank.parquet", compression="zstd")
    pq.write_table(telecom, folder / "telecom.parquet", compression="zstd")


def _shuffled(columns: dict[str, np.ndarray], keep: np.ndarray, rng: np.random.Generator) -> pa.Table:
    order = rng.permutation(np.flatnonzero(keep))
    made = {}
    for name, values in columns.items():
        kept = values[order]
        missing = np.isnan(kept) if kept.dtype.kind == "f" else None
        made[name] = pa.array(kept, mask=missing)
    return pa.table(made)


if __name__ == "__main__":
    told = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    told.add_argument("folder", type=Path)
    told.add_argument("--customers", type=int, default=CUSTOMERS)
    told.add_argument("--uci", type=Path)
    asked = told.parse_args()
    write(asked.folder, *(uci(asked.uci) if asked.uci else invented(asked.customers)))
