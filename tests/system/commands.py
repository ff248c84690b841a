"""Starts `fedcore` as a person does, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def start(*words: str | Path, **options: Any) -> subprocess.Popen[str]:
    """The command, running."""
    also = options.pop("preexec_fn", None)

    def prepare() -> None:
        # Whatever started the tests may ignore Ctrl-C, as a shell does for what it runs in the background.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if also is not None:
            also()

    return subprocess.Popen(
        [sys.executable, "-m", "fedcore", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
        **options,
    )


def fedcore(*words: str | Path, timeout: float = 240) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    process = start(*words)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def result(folder: Path) -> dict[str, Any]:
    """`result.json` of a run folder."""
    told: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return told


def wait_for(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """What the condition gives once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise TimeoutError(f"not true within {seconds} s")
