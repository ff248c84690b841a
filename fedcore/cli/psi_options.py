"""The options that the commands of `fedcore psi` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Key = Annotated[list[str] | None, typer.Option("--key", "-k", help="Key column; give it once for each.")]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="vole, ecdh, or ecdh-cached with a published set; vole when left out, ecdh where rows are not revealed.",
        show_default=False,
    ),
]
Reveal = Annotated[str, typer.Option(help="rows, cardinality, or sum:COLUMN (several: sum:A,B).")]
Trim = Annotated[bool, typer.Option("--trim", help="White space around a text does not count.")]
Fold = Annotated[bool, typer.Option("--fold-case", help="Capital and small letters are the same.")]
Numbers = Annotated[
    bool,
    typer.Option("--numbers-as-text", help="A number is its decimal text; for CSV against typed columns."),
]
Dates = Annotated[
    bool,
    typer.Option("--dates-as-text", help="A date is its text, 2026-01-31; for CSV against typed columns."),
]
MinMatches = Annotated[
    int | None,
    typer.Option(
        help="With fewer matches no number is told; for cardinality (0 when left out) and sum (5); the same at both.",
        show_default=False,
    ),
]
AmountScale = Annotated[
    int | None,
    typer.Option(help="Digits after the point of the numbers to add up; as many as there are when left out."),
]
AmountBounds = Annotated[
    str | None, typer.Option(metavar="LOW:HIGH", help="Least and most that one key may add to a sum.")
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory for the keys of a party, as in 2GiB; 1GiB when left out."),
]
Table = Annotated[str | None, typer.Option(help="Table of an SQLite file that has several.")]
Dataset = Annotated[
    str | None, typer.Option(help="Name of the data set, where --data is a catalogue (.yaml) with several.")
]
Published = Annotated[Path | None, typer.Option(help="For ecdh-cached: the other party's published set.")]
Secret = Annotated[Path | None, typer.Option(help="For ecdh-cached, the sender: the secret of its set.")]
