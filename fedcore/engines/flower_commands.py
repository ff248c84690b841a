"""Flower's own command line, kept warm: `flwr run`, `list`, `stop` without a second of imports each.

`FlowerCommands` starts one helper process (`python -m fedcore.engines.flower_commands`) that loads the `flwr`
command once and runs it as often as asked: one JSON list of arguments per line in, one JSON answer per line
out. It is the command that Flower publishes, with its documented arguments and `--format json`; nothing of
Flower's inside is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from fedcore.errors import EngineError

CONNECTION = "fedcore"
"""The name of the SuperLink in the `config.toml` that `write_connection` writes."""


@dataclass(frozen=True)
class Answer:
    """What a command said.

    Args:
        code: Its exit status; 0 is success.
        output: What it printed.
    """

    code: int
    output: str

    def json(self) -> dict[str, Any]:
        """The JSON object in the output (Flower prints other lines before it); empty when there is none."""
        start = self.output.find("{")
        if start < 0:
            return {}
        try:
            found = json.JSONDecoder().raw_decode(self.output[start:])[0]
        except json.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}


def write_connection(home: Path, address: str, authority: Path) -> None:
    """Write the `config.toml` by which `flwr` finds the SuperLink.

    Args:
        home: Becomes FLWR_HOME; made when absent.
        address: `host:port`.
        authority: The CA certificate that vouches for it.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    # JSON strings are TOML basic strings.
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f"address = {json.dumps(address)}\nroot-certificates = {json.dumps(str(authority))}\n"
    )


class FlowerCommands:
    """Runs Flower's commands against one SuperLink.

    Args:
        environment: Of the helper process; FLWR_HOME names the folder of `write_connection`.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._held = b""

    def __enter__(self) -> FlowerCommands:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __call__(self, *arguments: str, timeout: float = 60.0) -> Answer:
        """Run `flwr ARGUMENTS`.

        Args:
            arguments: As typed after `flwr`.
            timeout: Seconds to wait for the answer; the helper is ended when it passes.

        Raises:
            EngineError: No answer in time.
        """
        process = self._started()
        line = self._exchange(process, json.dumps(list(arguments)).encode() + b"\n", timeout)
        if line is None:
            self.close()
            raise EngineError(
                f"Flower's command `flwr {' '.join(arguments[:2])}` ended or gave no answer within {timeout:.0f} s; "
                f"allowed: an answer. Cure: see whether the SuperLink runs: fedcore federation status"
            )
        answer = json.loads(line)
        return Answer(int(answer["code"]), str(answer["output"]))

    def require(self, *arguments: str, timeout: float = 60.0) -> dict[str, Any]:
        """Run a command with `--format json` that must succeed; its JSON.

        Raises:
            EngineError: It failed; its output is in `detail`.
        """
        answer = self(*arguments, "--format", "json", timeout=timeout)
        found = answer.json()
        if answer.code != 0 or not found.get("success", False):
            raise EngineError(
                f"Flower's command `flwr {' '.join(arguments[:2])}` failed: {_reason(answer, found)}",
                detail=answer.output,
            )
        return found

    def close(self) -> None:
        """End the helper process."""
        process, self._process, self._held = self._process, None, b""
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        process.kill()
        process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fedcore.engines.flower_commands"],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Ctrl-C in the terminal must leave the helper able to carry the command that stops the run.
                start_new_session=True,
            )
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], question: bytes, timeout: float) -> bytes | None:
        """The answer's line; None when the helper died or the time passed."""
        if process.stdin is None or process.stdout is None:
            return None
        deadline = time.monotonic() + timeout
        try:
            process.stdin.write(question)
            process.stdin.flush()
            while b"\n" not in self._held:
                ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
                chunk = os.read(process.stdout.fileno(), 65536) if ready else b""
                if not chunk:
                    return None
                self._held += chunk
        except OSError:
            return None
        line, _, self._held = self._held.partition(b"\n")
        return line


def _reason(answer: Answer, found: dict[str, Any]) -> str:
    told = str(found.get("error-message") or answer.output)
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return " ".join(lines[-4:])[-400:] or f"exit status {answer.code}"


def _serve() -> None:
    """The helper process: run the `flwr` command once per line of standard input."""
    (script,) = metadata.entry_points(group="console_scripts", name="flwr")
    flwr = script.load()
    answers = os.fdopen(os.dup(1), "w")
    # Parts of Flower write to the process's first stdout whatever `sys.stdout` is, so descriptors are caught.
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        for line in sys.stdin:
            said.truncate(0)
            said.seek(0)
            code = _run(flwr, json.loads(line))
            said.seek(0)
            output = said.read().decode(errors="replace")
            print(json.dumps({"code": code, "output": output}), file=answers, flush=True)


def _run(flwr: Callable[..., Any], arguments: list[str]) -> int:
    """The exit status of one command."""
    code = 0
    try:
        flwr(arguments, prog_name="flwr")
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except Exception as exc:  # noqa: BLE001 - whatever the command raises is its answer, never our end
        print(f"{type(exc).__name__}: {exc}")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    _serve()
