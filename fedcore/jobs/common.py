"""What all files share: strict models, durations and names."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MEMORY = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Strict(BaseModel):
    """A frozen model that refuses keys it does not know and does not guess types."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=False)


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", value)
        if not found or found[2] not in _UNITS:
            raise ValueError('a duration is a number of seconds or text such as "90s", "10m", "2h"')
        return float(found[1]) * _UNITS[found[2]]
    return value


def _bytes(value: Any) -> Any:
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)\s*", value)
        if not found:
            raise ValueError('memory is a number of bytes or text such as "512MB", "16GB"')
        return int(float(found[1]) * _MEMORY[found[2]])
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("a name uses letters, digits, '.', '_' and '-', and begins with a letter or digit")
    return value


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not re.fullmatch(r"[^\s:]+|\[[0-9A-Fa-f:.]+\]", host) or not re.fullmatch(r"\d{1,5}", port):
        raise ValueError("an address is host:port, such as bank-a.example:9443")
    if not 1 <= int(port) <= 65535:
        raise ValueError("the port of an address is from 1 to 65535")
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
"""A duration; a bare number is seconds."""

Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
"""An amount of memory; a bare number is bytes."""

Address = Annotated[str, AfterValidator(_address)]
"""`host:port`."""

Name = Annotated[str, AfterValidator(_name)]
"""A name that is safe in a path, a log line and a Flower record."""
