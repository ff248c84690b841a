"""What a job and a participant file may say of secure aggregation."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fedcore.jobs.job import Protection
from fedcore.jobs.participant import Aggregated
from fedcore.jobs.secure import SecureAggregation


@pytest.mark.parametrize("word", ["none", "secagg+", "threshold"])
def test_a_word_takes_the_defaults_and_is_written_as_a_word(word: str) -> None:
    asked = Protection.model_validate({"secure_aggregation": word})
    assert asked.secure_aggregation == SecureAggregation(protocol=word)  # type: ignore[arg-type]
    assert asked.model_dump() == {"secure_aggregation": word}
    assert asked.on is (word != "none")


@pytest.mark.parametrize("protocol", ["ckks", "paillier"])
def test_a_shared_key_is_written_with_whom_it_holds_against(protocol: str) -> None:
    with pytest.raises(ValidationError, match=r"adversary: curious.*secagg\+ or threshold"):
        Protection.model_validate({"secure_aggregation": protocol})
    written = {"protocol": protocol, "adversary": "curious"}
    asked = Protection.model_validate({"secure_aggregation": written})
    told = asked.model_dump()["secure_aggregation"]
    assert written.items() <= told.items()
    assert Protection.model_validate({"secure_aggregation": told}) == asked


@pytest.mark.parametrize(
    "written",
    [
        "secagg",
        "ckks+",
        {"protocol": "ckks", "adversary": "curious", "bits": 64},
        {"protocol": "paillier", "adversary": "curious", "key_bits": 2047},
        {"protocol": "paillier", "adversary": "curious", "key_bits": 2056},
        {"protocol": "paillier", "adversary": "curious", "key_bits": 10**6},
        {"protocol": "secagg+", "cipher": "aes-256"},
    ],
)
def test_what_no_protocol_does_is_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        Protection.model_validate({"secure_aggregation": written})


def test_masks_are_of_the_cipher_that_the_job_names() -> None:
    written = {"protocol": "secagg+", "cipher": "chacha20"}
    asked = Protection.model_validate({"secure_aggregation": written})
    assert asked.secure_aggregation.cipher == "chacha20"
    assert Protection.model_validate(asked.model_dump()) == asked
    assert Protection.model_validate({"secure_aggregation": "secagg+"}).secure_aggregation.cipher == "aes"


@pytest.mark.parametrize("protocol", ["none", "threshold", "ckks", "paillier"])
def test_a_cipher_of_masks_is_refused_where_there_are_none(protocol: str) -> None:
    written = {"protocol": protocol, "adversary": "curious", "cipher": "chacha20"}
    with pytest.raises(ValidationError, match=r"chacha20 is for the masks of secagg\+"):
        Protection.model_validate({"secure_aggregation": written})


def test_a_site_allows_any_protocol_or_names_some() -> None:
    assert Aggregated().protocols == "any"
    assert Aggregated.model_validate({"protocols": ["secagg+"]}).protocols == ("secagg+",)
    with pytest.raises(ValidationError):
        Aggregated.model_validate({"protocols": ["secagg"]})
