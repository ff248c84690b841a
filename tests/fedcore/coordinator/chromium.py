"""A real browser for the tests: what a page asks of the network, and what it complains about."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "Chromium is not installed (Debian: apt-get install chromium)"

_QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--enable-logging=stderr",
    "--v=0",
]


@dataclass(frozen=True)
class Opened:
    """A page after loading: its document, its console messages, the addresses that it asked for."""

    dom: str
    console: list[str]
    requests: list[str]


def open_page(page: Path, scratch: Path) -> Opened:
    """Open a file. No host name is resolved, so that neither page nor browser leaves the machine."""
    assert PROGRAM is not None
    log = scratch / "net.json"
    own = [f"--user-data-dir={scratch / 'profile'}", f"--log-net-log={log}", "--dump-dom", page.as_uri()]
    rules = "--host-resolver-rules=MAP * ~NOTFOUND"
    done = subprocess.run([PROGRAM, *_QUIET, rules, *own], capture_output=True, timeout=120, check=True)
    events = [each["params"] for each in json.loads(log.read_text())["events"] if "params" in each]
    # The browser's own requests (its update check) have no page as their initiator.
    requests = [
        each["url"]
        for each in events
        if each.get("initiator", "not an origin") != "not an origin" and "url" in each
    ]
    console = re.findall(r"CONSOLE[^\]]*\] (.*)", done.stderr.decode(errors="replace"))
    return Opened(done.stdout.decode(), console, requests)
