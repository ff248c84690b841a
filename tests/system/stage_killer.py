"""The ClientApp of fedcore, at a site whose SuperNode and process are killed at a stage that a file names."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from fedcore.jobs.request import SECURE
from fedcore.participant.app import resolve
from fedcore.participant.client_app import build_client_app

FOLDER = "FEDCORE_TEST_FOLDER"
"""Environment variable: where a file `NAME.dies` may stand, which holds a stage and how often it comes before."""


class Killed(ClientApp):
    """Serves a message, unless the site is to die of it."""

    def __init__(self) -> None:
        super().__init__()
        self._app = build_client_app(resolve)

    def __call__(self, message: Message, context: Context) -> Message:
        """As the app that is installed."""
        record = message.content.get(SECURE)
        stage = str(record["stage"]) if isinstance(record, ConfigRecord) else message.metadata.message_type
        if _is_the_last(resolve(context).name, stage):
            _kill_supernode(str(context.node_config["participant"]))
            os.kill(os.getpid(), signal.SIGKILL)
        return self._app(message, context)


def _is_the_last(name: str, stage: str) -> bool:
    order = Path(os.environ[FOLDER]) / f"{name}.dies"
    try:
        at, left = order.read_text().split()
    except FileNotFoundError:
        return False
    if at != stage:
        return False
    if int(left) == 0:
        order.unlink()
        return True
    order.write_text(f"{at} {int(left) - 1}")
    return False


def _kill_supernode(file: str) -> None:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any("flower-supernode" in word for word in words) and any(file in word for word in words):
            with contextlib.suppress(psutil.Error):
                process.kill()


app = Killed()
