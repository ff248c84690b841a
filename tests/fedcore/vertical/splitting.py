"""Parties of a split network with a signal that neither side has alone, and two roles or more beside each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fedcore.jobs.vertical import SplitNetwork
from fedcore.peer.memory import MemoryChannel
from fedcore.vertical.split_network import fit_label_holder, fit_partner

ROWS, TRAIN = 2600, 2000
rng = np.random.default_rng(3)
BANK, TELECOM, SHOP = (
    rng.normal(size=(ROWS, 3)),
    rng.normal(size=(ROWS, 3)) * 5 + 2,
    rng.normal(size=(ROWS, 2)),
)
_ODDS = 2.5 * BANK[:, 0] * (TELECOM[:, 0] - 2) / 5 + BANK[:, 1] - (TELECOM[:, 1] - 2) / 5 - 2 * SHOP[:, 0]
LABEL = (rng.random(ROWS) < 1 / (1 + np.exp(2.5 - _ODDS))).astype(np.float64)


def settings(**changed: Any) -> SplitNetwork:
    return SplitNetwork(**{"use": "split-network", "epochs": 8, "batch": 128, "protect": "none", **changed})


def together(holder: Callable[[list[Any]], Any], *partners: Callable[[Any], Any]) -> list[Any]:
    """Run the label holder beside its partners; whoever fails ends its channels, as a process that ends does."""
    ends = [MemoryChannel.pair(names=("bank", f"partner {i}")) for i in range(len(partners))]

    def ended(role: Callable[[Any], Any], mine: Any) -> Any:
        try:
            return role(mine)
        except BaseException:
            for channel in mine if isinstance(mine, list) else [mine]:
                channel.abort()
            raise

    with ThreadPoolExecutor(len(partners) + 1) as pool:
        running = [pool.submit(ended, holder, [here for here, _ in ends])]
        running += [pool.submit(ended, role, there) for role, (_, there) in zip(partners, ends, strict=True)]
        return [each.exception() or each.result() for each in running]


def trained(*others: Any, bank: Any = BANK, rows: Any = slice(TRAIN), **changed: Any) -> list[Any]:
    chosen = settings(**changed)
    return together(
        lambda channels: fit_label_holder(channels, bank[rows], LABEL[rows], chosen, 1),
        *(lambda channel, x=x: fit_partner(channel, x[rows], chosen, 1) for x in others),
    )
