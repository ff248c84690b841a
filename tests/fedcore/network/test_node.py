"""A node's file: what its owner says becomes declared quantities, and what cannot be is refused at its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.errors import JobError
from fedcore.network.node import declared_quantities, load_node

GOOD = """\
node: n1
owner: anna
site: guiyang
jurisdiction: CN
location: {country: CN, region: Guizhou}
carbon_market: {value: 35, evidence: contract 17}
pue: 1.25
price: {currency: CNY, compute: 0.9}
security: {level: 3}
power: {idle: 60, load: 220}
line: {up: 100, down: 200}
valid: 12h
"""


def load(tmp_path: Path, text: str):
    file = tmp_path / "node.yaml"
    file.write_text(text)
    return load_node(file)


def test_location_and_market_are_two_numbers(tmp_path: Path) -> None:
    node = load(tmp_path, GOOD)
    said = declared_quantities(node)
    assert (said["carbon.location"].value, said["carbon.location"].unit) == (568.3, "gCO2/kWh")
    assert (said["carbon.market"].value, said["carbon.market"].unit) == (35, "gCO2e/kWh")
    assert all(each.source == "declared" for each in said.values())
    assert node.valid == 43200


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("pue: 1.25", "pue: 0.8", "pue"),
        ("compute: 0.9", "compute: -1", "compute"),
        ("level: 3", "level: 9", "level"),
        ("idle: 60, load: 220", "idle: 220, load: 60", "draws more when it works"),
        ("currency: CNY", "currency: yuan", "currency"),
        ("juris", "juri", "jurisdiction"),
        ("up: 100", "up: 0", "up"),
        ("valid: 12h", "valid: 1000h", "valid"),
        ("evidence: contract 17", "evidence: ''", "evidence"),
        ("site: guiyang", "site: [a]", "site"),
    ],
)
def test_bad_values_are_refused_by_name_and_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(JobError, match=rf"node.yaml:\d+.*{said}"):
        load(tmp_path, GOOD.replace(old, new))


def test_a_place_that_no_table_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    node = load(tmp_path, GOOD.replace("Guizhou", "Guizou"))
    with pytest.raises(JobError, match='did you mean "Guizhou"'):
        declared_quantities(node)
