"""One party of an intersection: what `fedcore psi party` does.

It does without the command line library, so that `fedcore.cli.start` can.
"""

from __future__ import annotations

from pathlib import Path

from fedcore.cli.psi_answer import answer_query, check_answering
from fedcore.cli.psi_meeting import Way, check_way, meeting, public_line
from fedcore.cli.psi_shown import party_shown, print_machine, print_party
from fedcore.cli.psi_words import data_of, side_of
from fedcore.cli.sizes import parse_size
from fedcore.errors import JobError


def take_part(
    *,
    role: str,
    identity: Path,
    peer_key: str,
    data: Path | None = None,
    key: list[str] | None = None,
    table: str | None = None,
    dataset: str | None = None,
    listen: str | None = None,
    connect: str | None = None,
    relay: str | None = None,
    relay_key: str | None = None,
    session: str = "psi",
    protocol: str | None = None,
    reveal: str = "rows",
    both: bool = False,
    min_matches: int | None = None,
    amount_scale: int | None = None,
    amount_bounds: str | None = None,
    holder: str | None = None,
    published: Path | None = None,
    secret: Path | None = None,
    memory_limit: str | None = None,
    trim: bool = False,
    fold_case: bool = False,
    numbers_as_text: bool = False,
    dates_as_text: bool = False,
    out: Path = Path("runs/psi"),
    wait: float = 300.0,
    as_json: bool = False,
) -> None:
    """Meet the other party, take part, and tell the result. The arguments are the command's options.

    Raises:
        FedcoreError: Options that cannot be used, and what `fedcore.participant.intersection` raises.
    """
    given = dict(locals())
    check_way(listen, connect, relay, relay_key)
    if secret is not None:
        check_answering(given, take_part.__kwdefaults__ or {})
    from fedcore.trust.identity import load_identity

    own, peer_line = load_identity(identity), public_line(peer_key, "--peer-key")
    relay_line = None if relay_key is None else public_line(relay_key, "--relay-key")
    meet = meeting(own, peer_line, session, Way(listen, connect, relay, relay_line), wait)
    if secret is not None:
        answer_query(meet, secret, session, out, peer_line, as_json)
        return
    if not key:
        raise JobError("give --key COLUMN, once for each column of the key")
    if data is None:
        raise JobError("give --data FILE; only who answers with --secret needs none")
    from crypto.psi.items import ItemRules
    from fedcore.participant.intersection import intersect

    keep_freed_memory()
    side = side_of(
        role,
        data_of(data, table, dataset),
        key,
        session,
        ItemRules(
            trim=trim, fold_case=fold_case, numbers_as_text=numbers_as_text, dates_as_text=dates_as_text
        ),
        protocol=protocol,
        reveal=reveal,
        both=both,
        memory=None if memory_limit is None else parse_size(memory_limit, "--memory-limit"),
        min_matches=min_matches,
        scale=amount_scale,
        bounds=amount_bounds,
        holder=holder,
        published=published,
    )
    with party_shown(as_json) as watch:
        result = intersect(meet, side, out, watch)
    if as_json:
        print_machine(result)
    else:
        print_party(result, out)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next array, where it is glibc.

    A protocol takes and frees arrays of megabytes for every message. Given back to the system each time, their pages
    come back zeroed by the kernel: at ten million rows a side two seconds of processor time out of fifteen.
    """
    import ctypes

    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version"):
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        for option, value in ((trim_threshold, 2**28), (top_pad, 2**24), (mmap_threshold, 2**25)):
            library.mallopt(option, value)
