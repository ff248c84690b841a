"""What the label holder and a partner say to each other about bins: see `fedcore.vertical.woe`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crypto.channel import Channel
from crypto.errors import ProtocolError
from fedcore.jobs.vertical import Bin
from fedcore.peer.handshake import Hello, shake_hands
from fedcore.vertical.monotone import Groups

VERSION = 1
LIMIT = 16 * 1024 * 1024
"""Most bytes of a message of JSON."""
MOST_VARIABLES = 10_000
_CURES = {
    "rows": "both sides need the same training rows in the same order: match them again",
    **dict.fromkeys(
        ("method", "max_bins", "min_share", "prebins", "min_rows"),
        "both sides take the settings of bins from one job: start both from the same",
    ),
}


@dataclass(frozen=True)
class Fine:
    """What is told of a variable before its bins merge: regular bins, special ones, the one of missing values.

    Args:
        ordered: Whether regular bins are ranges.
        regular: Their number.
        rows: Training rows per bin.
    """

    ordered: bool
    regular: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Merged:
    """What is told of a variable after its bins merged.

    Args:
        groups: Fine bins that become one.
        woe: Weight of evidence per bin.
        iv: Information value.
    """

    groups: Groups
    woe: tuple[float, ...]
    iv: float


def agree(channel: Channel, role: str, rows: int, settings: Bin) -> None:
    """Shake hands on training rows and settings.

    Raises:
        ProtocolError: The sides differ; what, both values and the cure are named.
    """
    told = settings.model_dump(exclude={"special", "min_share"})
    mine = Hello(
        "woe", VERSION, "none", "woe", role, {**told, "min_share": repr(settings.min_share), "rows": rows}
    )
    shake_hands(
        channel, mine, peer_role="partner" if role == "label holder" else "label holder", cures=_CURES
    )


def write_fine(fine: Sequence[Fine]) -> bytes:
    """Own variables, for the label holder."""
    return json.dumps([[each.ordered, each.regular, each.rows] for each in fine]).encode()


def write_merged(merged: Sequence[Merged]) -> bytes:
    """What a partner learns of its variables."""
    return json.dumps([[each.groups, each.woe, each.iv] for each in merged]).encode()


def read_fine(data: memoryview, rows: int, least: int) -> list[Fine]:
    """A partner's variables.

    Raises:
        ProtocolError: They are no such list, or a bin has too few rows.
    """
    step = "woe.variables"
    found = _json_list(data, step)
    if len(found) > MOST_VARIABLES:
        raise ProtocolError(f"{len(found)} variables came; at most {MOST_VARIABLES} are allowed", step=step)
    fine = []
    for number, each in enumerate(found):
        fits = (
            isinstance(each, list)
            and [type(part) for part in each] == [bool, int, list]
            and all(type(part) is int for part in each[2])
            and 1 <= each[1] < len(each[2]) <= 2**16
        )
        if not fits or sum(each[2]) != rows:
            raise ProtocolError(
                f"variable {number} is no list of bins with {rows} rows in all; match the rows again, and run the "
                "same version of fedcore at both",
                step=step,
            )
        if any(part < least and part != 0 for part in each[2]):
            raise ProtocolError(
                f"a bin of variable {number} has fewer than {least} rows, which are not to be told; the partner "
                "does not follow the protocol",
                step=step,
            )
        fine.append(Fine(each[0], each[1], tuple(each[2])))
    return fine


def read_merged(data: memoryview, fine: Sequence[Fine]) -> list[Merged]:
    """What the label holder says of the variables.

    Raises:
        ProtocolError: It does not fit them.
    """
    step = "woe.merged"
    found = _json_list(data, step)
    merged: list[Merged] = []
    try:
        for (groups, woe, iv), before in zip(found, fine, strict=True):
            each = Merged(
                tuple(tuple(int(part) for part in group) for group in groups),
                tuple(float(part) for part in woe),
                float(iv),
            )
            taken = [part for group in each.groups for part in group]
            if (taken if before.ordered else sorted(taken)) != list(range(before.regular)) or not all(
                each.groups
            ):
                raise ValueError("the bins to merge are not these")
            if len(each.woe) != len(each.groups) + len(before.rows) - before.regular:
                raise ValueError("the number of weights is not that of the bins")
            if not np.isfinite([*each.woe, each.iv]).all():
                raise ValueError("a number is not finite")
            merged.append(each)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(
            f"what came of variable {len(merged)} does not fit it ({error}); the label holder does not follow the "
            "protocol",
            step=step,
        ) from error
    return merged


def _json_list(data: memoryview, step: str) -> list[Any]:
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(
            "what came is no JSON; run the same version of fedcore at both", step=step
        ) from error
    if not isinstance(found, list):
        raise ProtocolError("what came is no list; run the same version of fedcore at both", step=step)
    return found
