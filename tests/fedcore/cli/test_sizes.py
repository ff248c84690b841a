"""Amounts of memory as a person writes them."""

from __future__ import annotations

import pytest

from fedcore.cli.sizes import parse_size
from fedcore.errors import JobError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2**31),
        ("2 gib", 2**31),
        ("1.5KiB", 1536),
        ("500MB", 500_000_000),
        ("3TB", 3 * 10**12),
        ("64MiB", 2**26),
        ("17B", 17),
        ("1073741824", 2**30),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text, "--memory-limit") == size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2GIB8", "is no amount of memory; allowed: a number and a unit"),
        ("much", "no amount of memory"),
        ("-2GB", "no amount of memory"),
        ("", "no amount of memory"),
        ("2Gi", 'did you mean "GiB"? allowed: B, GB, GiB, KB'),
        ("2 gigs", "has the unknown unit 'gigs'"),
    ],
)
def test_what_is_no_size_is_answered_with_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(JobError) as caught:
        parse_size(text, "--memory-limit")
    assert str(caught.value).startswith("--memory-limit: ") and said in str(caught.value)
