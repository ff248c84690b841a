from __future__ import annotations

import pytest

from fedcore import errors
from fedcore.errors import error_kind


def test_an_error_is_known_by_the_name_that_another_party_tells() -> None:
    assert error_kind("PeerLost") is errors.PeerLost
    assert error_kind("FedcoreError") is errors.FedcoreError


@pytest.mark.parametrize("name", ["", "NoSuchError", "Iterable", "difflib", "nearest", "__builtins__"])
def test_a_name_that_is_no_error_of_ours_gives_the_base(name: str) -> None:
    assert error_kind(name) is errors.FedcoreError
