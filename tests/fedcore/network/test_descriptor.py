"""Descriptors: nobody speaks for another's node, for longer than it said, or of what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import DataError, IdentityError, JobError
from fedcore.network.descriptor import (
    KIND,
    check_descriptor,
    describe,
    exposed,
    load_descriptor,
    payload,
    sign_descriptor,
    write_descriptor,
)
from fedcore.network.node import Attestation, Security, Watts
from fedcore.network.quantity import counted, declared, derived, measured
from fedcore.network.signed import sign
from tests.fedcore.network.nodes import ANNA, BERT, NOW, PINS, described, found, later, node_file, party


def test_a_signed_descriptor_passes_through_a_file_unchanged(tmp_path: Path) -> None:
    one = described(security=Security(level=3, attestations=(
        Attestation(kind="tee_quote", digest="ab" * 32, verified_at="2026-02-01T00:00:00+00:00", verifier="lab"),
    )))  # fmt: skip
    write_descriptor(one, tmp_path / "n1.json")
    read = load_descriptor(tmp_path / "n1.json")
    assert read == one
    check_descriptor(read, PINS, at=later(60))


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-3, 1e5), st.floats(1.0, 3.0), st.integers(1, 5))
def test_any_plausible_number_keeps_its_signature_through_a_file(
    tmp_path_factory: pytest.TempPathFactory, rate: float, pue: float, level: int
) -> None:
    quantities = {"ecc.x25519": measured([rate] * 3, "op/s", "timed", at=NOW)} if rate > 0.1 else {}
    one = described(
        quantities={"cores": counted(8, "cores", "x", at=NOW)} | quantities,
        pue=pue,
        security=Security(level=level),
    )
    file = tmp_path_factory.mktemp("d") / "d.json"
    write_descriptor(one, file)
    check_descriptor(load_descriptor(file), PINS, at=later(60))


def test_yaml_is_read_as_json_is(tmp_path: Path) -> None:
    one = described()
    from ruamel.yaml import YAML

    with (tmp_path / "n1.yaml").open("w") as file:
        YAML(typ="safe").dump({**payload(one), "signature": one.signature}, file)
    check_descriptor(load_descriptor(tmp_path / "n1.yaml"), PINS, at=later(60))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["quantities"]["gemm.cpu.fp32"].update(value=101.0),
        lambda data: data["quantities"]["gemm.cpu.fp32"].update(source="attested"),
        lambda data: data["quantities"].pop("power.load"),
        lambda data: data.update(site="elsewhere"),
        lambda data: data.update(jurisdiction="US"),
        lambda data: data.update(expires="2030-01-01T00:00:00+00:00"),
        lambda data: data.update(currency="USD"),
        lambda data: data["quantities"]["security.level"].update(value=5),
    ],
)
def test_a_changed_descriptor_is_refused_as_forged(tmp_path: Path, change: object) -> None:
    one = described()
    data = {**payload(one), "signature": one.signature}
    change(data)  # type: ignore[operator]
    (tmp_path / "n1.json").write_text(json.dumps(data))
    with pytest.raises(IdentityError, match="it was changed, or another key signed it") as raised:
        check_descriptor(load_descriptor(tmp_path / "n1.json"), PINS, at=later(60))
    assert raised.value.party == "anna"


def test_nobody_signs_for_another_owner() -> None:
    own = described(BERT)
    with pytest.raises(JobError, match="the key is bert's"):
        sign_descriptor(described(), BERT)
    stolen = own.model_copy(update={"owner": "anna"})
    forged = stolen.model_copy(update={"signature": sign(BERT, KIND, payload(stolen))})
    with pytest.raises(IdentityError, match="bert signed it, who may speak for itself only"):
        check_descriptor(forged, PINS, at=later(60))


def test_a_key_of_the_same_name_that_is_not_pinned_is_worth_nothing() -> None:
    with pytest.raises(IdentityError, match="another key signed it"):
        check_descriptor(described(party("anna")), PINS, at=later(60))


def test_who_is_not_in_the_roster_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(IdentityError, match="not in the roster"):
        check_descriptor(described(party("carl")), PINS, at=later(60))


@pytest.mark.parametrize("signature", ["", "not base64!", "AAAA"])
def test_no_signature_is_no_signature(signature: str) -> None:
    with pytest.raises(IdentityError, match="not signed"):
        check_descriptor(described().model_copy(update={"signature": signature}), PINS, at=later(60))


def test_a_signature_under_another_kind_of_thing_counts_nothing() -> None:
    one = described()
    other = one.model_copy(update={"signature": sign(ANNA, "offer", payload(one))})
    with pytest.raises(IdentityError):
        check_descriptor(other, PINS, at=later(60))


def test_it_holds_until_it_expires_and_not_before_it_was_made() -> None:
    one = described(valid=3600.0)
    check_descriptor(one, PINS, at=later(3599))
    with pytest.raises(IdentityError, match=r"expired at 2026-03-01T13:00:00\+00:00"):
        check_descriptor(one, PINS, at=later(3600))
    with pytest.raises(IdentityError, match="set the clocks"):
        check_descriptor(one, PINS, at=later(-301))
    check_descriptor(one, PINS, at=later(-299))
    endless = one.model_copy(update={"expires": "2126-01-01T00:00:00+00:00"})
    endless = endless.model_copy(update={"signature": sign(ANNA, KIND, payload(endless))})
    with pytest.raises(IdentityError, match="allowed: 2678400 s"):
        check_descriptor(endless, PINS, at=later(60))


def test_what_cannot_be_true_is_neither_signed_nor_believed() -> None:
    with pytest.raises(DataError, match=r"gemm\.cpu\.fp32 is 1e"):
        described(quantities=found(fp32=1e9))
    one = described()
    boast = one.model_copy(update={"quantities": {**one.quantities, "pue": declared(0.8, "ratio", "x")}})
    with pytest.raises(DataError, match=r"pue is 0\.8"):
        sign_descriptor(boast, ANNA)
    signed = boast.model_copy(update={"signature": sign(ANNA, KIND, payload(boast))})
    with pytest.raises(DataError, match=r"pue is 0\.8"):
        check_descriptor(signed, PINS, at=later(60))


def test_unknown_keys_are_named_with_the_nearest(tmp_path: Path) -> None:
    one = described()
    data = {**payload(one), "signature": one.signature}
    data["jurisdicton"] = data.pop("jurisdiction")
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(JobError, match="jurisdiction"):
        load_descriptor(tmp_path / "a.json")
    data = {**payload(one), "signature": one.signature}
    data["quantities"]["pue"]["sampels"] = 3
    (tmp_path / "b.json").write_text(json.dumps(data))
    with pytest.raises(JobError, match=r"sampels.*unknown key.*samples"):
        load_descriptor(tmp_path / "b.json")


def test_measured_beats_declared_and_declared_beats_derived() -> None:
    quantities = found()
    quantities["power.load"] = derived(7, "W", "a model")
    quantities["link.up"] = measured([90.0] * 3, "Mbit/s", "transfers")
    made = describe(node_file(power=Watts(idle=40, load=120)), quantities, at=NOW)
    assert made.quantities["power.load"].value == 120 and made.quantities["power.idle"].source == "measured"
    assert made.quantities["link.up"].value == 90


def test_an_owner_lets_out_no_more_than_it_says() -> None:
    whole = described()
    scores, one = exposed(whole, "L1"), exposed(whole, "L2")
    assert set(scores.quantities) == {
        "security.level",
        "score.compute",
        "score.crypto",
        "score.memory",
        "score.network",
    }
    assert set(one.quantities) == {"security.level", "score"}
    assert all(0 <= each.value <= 10 for name, each in scores.quantities.items() if "score" in name)
    assert scores.signature == one.signature == ""
    assert exposed(scores, "L2").quantities == one.quantities
    with pytest.raises(JobError, match="cannot show L0 again"):
        exposed(one, "L0")
    sent = described(exposure="L1")
    assert "gemm.cpu.fp32" not in sent.quantities
    check_descriptor(sent, PINS, at=later(60))


def test_a_score_of_something_unreliable_is_unreliable() -> None:
    quantities = found()
    quantities["gemm.cpu.fp32"] = measured([50, 100, 150], "GFLOP/s", "timed")
    assert described(quantities=quantities, exposure="L1").doubtful.keys() == {"score.compute"}


def test_more_quantities_than_a_page_holds_are_refused(tmp_path: Path) -> None:
    one = described()
    data = {**payload(one), "signature": one.signature}
    data["quantities"] |= {f"work.j{i}": data["quantities"]["work.digits"] for i in range(300)}
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(JobError, match="256"):
        load_descriptor(tmp_path / "a.json")
