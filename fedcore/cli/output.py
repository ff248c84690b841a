"""How every command speaks: results on stdout, errors in red on stderr, or JSON on stdout for machines."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from fedcore.errors import FedcoreError

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of text.")]
"""The option that every command has. A function takes it as `as_json: Json = False`."""


def print_json(data: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")


def error_as_json(error: FedcoreError) -> dict[str, Any]:
    """What machines read of an error. Its `detail` is not for them: it belongs to the data's owner."""
    return {
        "type": type(error).__name__,
        "message": error.message,
        "party": error.party,
        "step": error.step,
        "exit_code": error.exit_code,
    }


def print_error(error: FedcoreError, as_json: bool) -> None:
    """Print an error: as JSON on stdout, or in red on stderr."""
    if as_json:
        print_json({"error": error_as_json(error)})
        return
    from rich.console import Console
    from rich.text import Text

    # No wrapping: a path that is broken over two lines can be neither clicked nor copied.
    Console(stderr=True, soft_wrap=True).print(Text(f"error: {error}", style="red"))
