"""Offers made from descriptors that are at hand."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedcore.errors import JobError
from fedcore.network.descriptor import Descriptor, describe, sign_descriptor, write_descriptor
from fedcore.network.policy import Needed
from fedcore.network.quotes import descriptors_in, quotes
from fedcore.network.trust_score import UNATTESTED
from fedcore.trust.identity import Identity
from tests.fedcore.network.nodes import ANNA, BERT, found, node_file, request


def now(owner: Identity, **changed: object) -> Descriptor:
    """A descriptor of this moment: offers are checked against the clock."""
    return describe(node_file(**({"owner": owner.name} | changed)), found(), at=datetime.now(UTC))


def test_a_trial_has_the_figures_of_signed_offers() -> None:
    nodes = [now(ANNA), now(BERT)]
    trial = quotes(request(), nodes, {})
    signed = quotes(request(), [sign_descriptor(nodes[0], ANNA), nodes[1]], {"anna": ANNA, "bert": BERT})
    assert trial.offers == signed.offers and len(trial.offers) == 2
    assert (trial.signed, trial.trial) == ((), ("anna", "bert"))
    assert (signed.signed, signed.trial) == (("anna", "bert"), ())
    # Nobody vouches for the nodes, and nothing is known of their owners: half, of half.
    assert all(one.trust == UNATTESTED * 0.5 for one in trial.offers)


def test_a_descriptor_that_was_changed_after_it_was_signed_is_left_out_where_the_key_is_here() -> None:
    forged = sign_descriptor(now(ANNA), ANNA).model_copy(update={"site": "chengdu"})
    told = quotes(request(), [forged], {"anna": ANNA})
    assert told.offers == () and "is not signed by anna" in told.left_out[0].reason


def test_an_expired_descriptor_is_left_out_in_a_trial_too() -> None:
    old = describe(node_file(), found(), at=datetime(2020, 1, 1, tzinfo=UTC))
    told = quotes(request(), [old], {})
    assert told.offers == () and "expired" in told.left_out[0].reason


def test_what_makes_no_offer_says_why() -> None:
    bare = now(ANNA).model_copy(update={"quantities": {}})
    told = quotes(request(), [bare], {})
    assert told.offers == () and told.left_out[0].owner == "anna" and told.left_out[0].reason


def test_evidence_that_the_policy_asks_for_is_asked_of_offers() -> None:
    told = quotes(request(), [now(ANNA)], {}, needed=Needed(link="measured"))
    assert (
        told.offers == () and told.left_out[0].reason == "its link is declared; the policy asks for measured"
    )


def test_descriptors_of_a_folder_are_found_among_other_files(tmp_path: Path) -> None:
    write_descriptor(now(ANNA), tmp_path / "a.json")
    write_descriptor(now(BERT), tmp_path / "b.json")
    (tmp_path / "a.yaml").write_text("node: n1\nowner: anna\nsite: s\njurisdiction: CN\n")
    (tmp_path / "README.md").write_text("nodes")
    (tmp_path / "empty.json").write_text("")
    assert [node.owner for node in descriptors_in([tmp_path])] == ["anna", "bert"]
    with pytest.raises(JobError, match="anna/n1 came already"):
        descriptors_in([tmp_path, tmp_path / "a.json"])


def test_a_folder_without_a_descriptor_says_how_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="fedcore network probe"):
        descriptors_in([tmp_path])
