"""The bank example: its data are as described, and one command leads from two files to two reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from examples.bank_risk.customers import BANK_UCI, LABEL_UCI, NO_HISTORY, invented, uci
from examples.bank_risk.run import prepare, reports

ROOT = Path(__file__).resolve().parents[2]
READY = ROOT / "configs" / "federations" / "data" / "bank_risk"


def test_invented_customers_are_the_same_each_time_and_four_in_five_are_shared() -> None:
    bank, telecom = invented(4000)
    again, _ = invented(4000)
    assert bank.equals(again)
    ids, others = set(bank["id_number"].to_pylist()), set(telecom["id_number"].to_pylist())
    assert len(ids) == 4000 and 0.77 < len(ids & others) / 4000 < 0.83 and others - ids
    assert "default_90d" not in telecom.column_names


def test_who_defaults_follows_the_hidden_traits_that_both_sides_see() -> None:
    bank, telecom = invented(20_000)
    both = bank.join(telecom, "id_number", join_type="inner").to_pandas()
    rates = both["default_90d"]
    assert 0.09 < rates.mean() < 0.15
    assert rates[both["utilisation"] > 0.7].mean() > 1.5 * rates[both["utilisation"] < 0.3].mean()
    assert rates[both["late_bills"] > 1].mean() > 1.5 * rates[both["late_bills"] == 0].mean()
    assert (both["arrears"] == NO_HISTORY).any() and both["income"].isna().any()


def test_the_ready_tables_are_what_the_script_makes() -> None:
    for name, made in zip(("bank", "telecom"), invented(6000), strict=True):
        assert pq.read_table(READY / f"{name}.parquet").equals(made)


def test_the_uci_file_is_cut_by_columns_and_no_row_is_lost(tmp_path: Path) -> None:
    names = ["ID", *BANK_UCI, "PAY_0", "BILL_AMT1", LABEL_UCI]
    rows = pa.table({name: np.arange(5) + place for place, name in enumerate(names)})
    pyarrow.csv.write_csv(rows, tmp_path / "uci.csv")
    bank, partner = uci(tmp_path / "uci.csv")
    assert bank.column_names == ["id_number", *BANK_UCI, "default_90d"]
    assert partner.column_names == ["id_number", "PAY_0", "BILL_AMT1"]
    assert bank["id_number"].equals(partner["id_number"]) and len(bank) == 5


@pytest.mark.timeout(300)
def test_one_command_leads_to_a_report_for_each_party(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "examples/bank_risk/run.py"), "--folder", "example", "--customers", "5000"],
        cwd=tmp_path, text=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = reports(tmp_path / "example")
    assert set(found) == {"bank-a", "telecom-b"}
    assert "report of bank-a: example" in ended.stdout
    bank, telecom = (json.loads(path.with_name("result.json").read_text()) for path in found.values())
    assert 0.75 < bank["match"]["matched"] / bank["match"]["rows"] < 0.85
    assert {model["name"] for model in bank["models"]} == {"champion", "challenger"}
    assert telecom["labels"] is None and all(each["bad"] is None for each in telecom["variables"])
    # What is out of time is the largest part that nobody trained on.
    labels = np.array(bank["labels"]["out of time"])
    champion = next(model for model in bank["models"] if model["name"] == "champion")
    joint, alone = (np.array(champion[kind]["out of time"]) for kind in ("scores", "own_scores"))
    assert _auc(labels, joint) > _auc(labels, alone) + 0.02


def test_files_of_a_run_with_the_uci_data_leave_out_what_it_does_not_have(tmp_path: Path) -> None:
    names = ["ID", *BANK_UCI, "PAY_0", LABEL_UCI]
    pyarrow.csv.write_csv(pa.table({name: np.arange(5) for name in names}), tmp_path / "uci.csv")
    job, _ = prepare(tmp_path, path=tmp_path / "uci.csv")
    assert "out_of_time" not in job.read_text() and "special" not in job.read_text()


def _auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Share of pairs in which the bad row has the higher score."""
    bad, good = scores[labels == 1], scores[labels == 0]
    above = (bad[:, None] > good[None]).mean() + 0.5 * (bad[:, None] == good[None]).mean()
    return float(above)
