"""Amounts of memory as a person writes them."""

from __future__ import annotations

import re

from fedcore.errors import JobError, did_you_mean

UNITS = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
}


def parse_size(text: str, option: str) -> int:
    """Bytes of a text such as 2GiB, 500MB or 1073741824; capital and small letters are the same.

    Args:
        text: What was given.
        option: Its name, for the error.

    Raises:
        JobError: It is no such text.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text, re.ASCII)
    if found is None:
        raise JobError(
            f"{option}: {text!r} is no amount of memory; allowed: a number and a unit, as in 2GiB or 500MB"
        )
    unit = found[2] or "B"
    factor = {name.lower(): factor for name, factor in UNITS.items()}.get(unit.lower())
    if factor is None:
        raise JobError(f"{option}: {text!r} has the unknown unit {unit!r}; {did_you_mean(unit, UNITS)}")
    return int(float(found[1]) * factor)
