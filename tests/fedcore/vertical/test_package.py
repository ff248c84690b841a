"""A party's part of a model is kept as it was written, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedcore.errors import DataError, IdentityError
from fedcore.trust.identity import new_identity
from fedcore.vertical.package import Package, load_package, save_package
from fedcore.vertical.scoring import part_of
from tests.fedcore.vertical.scored import BANK, TELECOM, about, card, package


def test_a_package_comes_back_as_it_was_written(tmp_path: Path) -> None:
    arrays = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    digest = save_package(tmp_path / "m", Package(about(TELECOM), card(TELECOM).as_dict(), arrays))
    found = load_package(tmp_path / "m")
    assert part_of(found) == card(TELECOM)
    assert np.array_equal(found.arrays["weight"], arrays["weight"])
    assert found.about.run == "run-1"
    assert set(found.about.versions) == {"fedcore", "python", "numpy"}
    assert len(digest) == 64
    # Written again, it replaces the one that was there, with nothing left of it.
    save_package(tmp_path / "m", package(TELECOM))
    assert sorted(each.name for each in (tmp_path / "m").iterdir()) == ["model.json", "seal.json"]
    assert [each.name for each in tmp_path.iterdir()] == ["m"]


def test_a_partners_package_holds_nothing_of_the_label_holders_card(tmp_path: Path) -> None:
    save_package(tmp_path / "m", package(TELECOM))
    text = (tmp_path / "m" / "model.json").read_text()
    assert "income" not in text
    assert "250" not in text
    assert "calls" in text


@pytest.mark.parametrize("file", ["model.json", "arrays.safetensors"])
def test_a_changed_byte_is_noticed(tmp_path: Path, file: str) -> None:
    arrays = {"weight": np.ones(3)}
    save_package(tmp_path / "m", Package(about(TELECOM), card(TELECOM).as_dict(), arrays))
    raw = bytearray((tmp_path / "m" / file).read_bytes())
    raw[-3] ^= 1
    (tmp_path / "m" / file).write_bytes(raw)
    with pytest.raises(DataError, match="not as it was written"):
        load_package(tmp_path / "m")


@pytest.mark.parametrize("file", ["model.json", "arrays.safetensors", "seal.json"])
def test_a_missing_file_is_noticed(tmp_path: Path, file: str) -> None:
    save_package(tmp_path / "m", Package(about(TELECOM), card(TELECOM).as_dict(), {"weight": np.ones(3)}))
    (tmp_path / "m" / file).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_package(tmp_path / "m")


def test_points_changed_under_a_new_seal_are_noticed_by_the_signature(tmp_path: Path) -> None:
    own, other = new_identity(tmp_path / "own.key", TELECOM), new_identity(tmp_path / "other.key", BANK)
    save_package(tmp_path / "m", package(TELECOM), own)
    assert load_package(tmp_path / "m", [own.public_line]).about.party == TELECOM
    with pytest.raises(IdentityError, match="not signed by a key that counts"):
        load_package(tmp_path / "m", [other.public_line])
    seal = json.loads((tmp_path / "m" / "seal.json").read_text())
    model = (tmp_path / "m" / "model.json").read_text().replace("-20", "-19")
    import hashlib

    seal["sha256"] = hashlib.sha256(model.encode()).hexdigest()
    (tmp_path / "m" / "model.json").write_text(model)
    (tmp_path / "m" / "seal.json").write_text(json.dumps(seal))
    assert load_package(tmp_path / "m")
    with pytest.raises(IdentityError, match="was changed"):
        load_package(tmp_path / "m", [own.public_line])


def test_an_unsigned_package_is_refused_where_a_signature_is_asked_for(tmp_path: Path) -> None:
    own = new_identity(tmp_path / "own.key", TELECOM)
    save_package(tmp_path / "m", package(TELECOM))
    with pytest.raises(IdentityError, match="is not signed"):
        load_package(tmp_path / "m", [own.public_line])


@pytest.mark.parametrize("text", ["no json", "[]", '{"format": 9}'])
def test_what_is_no_package_is_refused(tmp_path: Path, text: str) -> None:
    import hashlib

    save_package(tmp_path / "m", package(TELECOM))
    (tmp_path / "m" / "model.json").write_text(text)
    (tmp_path / "m" / "seal.json").write_text(
        json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest()})
    )
    with pytest.raises(DataError):
        load_package(tmp_path / "m")
