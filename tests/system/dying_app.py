"""The ClientApp of fedcore, which kills its own process in the middle of a protocol where a file tells it to."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from fedcore.participant.app import resolve
from fedcore.participant.client_app import build_client_app

FOLDER = "FEDCORE_TEST_FOLDER"
"""Environment variable: where a file `NAME.dies` may stand, which holds the phase at which NAME dies."""


def _die(party: str, phase: str, done: int, of: int) -> None:
    order = Path(os.environ[FOLDER]) / f"{party}.dies"
    if order.exists() and order.read_text() == phase:
        order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


app = build_client_app(resolve, progress=_die)
