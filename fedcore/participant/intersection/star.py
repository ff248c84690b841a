"""One party's part in an intersection of several: read the keys, meet, run the star, check it, write the rows.

One party leads and has a channel to each other, the followers have one to the leader. What leaves a party is what
`crypto.psi.star` sends, which says who learns what, and the settings in the handshake. The result stays here, in the
files of an intersection of two (`fedcore.participant.intersection`); where all learn it, a match has the same number
at all parties.

Self-check: 64 random items, known to all parties, are added to each set and must come back, and where all learn the
result the leader finds as many matches as each follower. The seed of these items is a hash of random numbers of all
parties, collected by the leader; each checks that its own is among them. The same hash names the run under which
followers sign the keys that the leader forwards, so that a signature of one run is worth nothing in another.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from crypto.errors import ProtocolError
from crypto.psi import parameters, star
from crypto.psi.items import ItemRules
from crypto.psi.planted import check_back, planted
from crypto.signatures import Authenticator
from fedcore.errors import DataError, JobError, ProtocolFailed, did_you_mean
from fedcore.participant.intersection.costs import CompileClock, Phases, peak_memory
from fedcore.participant.intersection.keys import Read, Watch, keeping, read_keys
from fedcore.participant.intersection.meeting import CURES
from fedcore.participant.intersection.rows import RowsFile, save
from fedcore.participant.intersection.run import PLANTED, RESULT, ROWS
from fedcore.participant.intersection.side import Side
from fedcore.peer.channel import FramedChannel
from fedcore.peer.handshake import Hello, shake_hands
from fedcore.peer.tls import public_key
from fedcore.trust.identity import Identity

if TYPE_CHECKING:
    from fedcore.jobs.datasets import DataSet

VERSION = 1
"""Of what the parties say to each other, beside `crypto.psi.star`."""
REVEALS = ("leader", "all")
ASSUMPTION = (
    "primal LPN over GF(2) and GF(2^128), Diffie-Hellman in ristretto255 and X25519, AES an ideal permutation; "
    "augmented semi-honest parties"
)
_NONCE = 16
_CURES = {
    **CURES,
    "parties": "name the same parties at all, the leader first",
    "reveal": "give the same value at all parties",
    "keys are signed": "let all followers sign, or none",
}

Channels = Mapping[str, FramedChannel]


@dataclass(frozen=True)
class StarSide:
    """What one party brings and what was agreed.

    Args:
        name: This party.
        leader: The party that all others talk with; it learns the result.
        followers: All others, each with one name that all know.
        data: Its rows.
        key: Columns of the key, in an order that all parties know.
        session: Name of the meeting, the same at all.
        rules: What counts as the same item.
        reveal: `leader` or `all`: who learns the rows.
        memory: Bytes for reading; the protocol itself holds the whole set in memory.
        sign: Followers sign the keys they share with one another, so that the leader cannot put its own in their place.
        identity: Signs, at a follower.
        pins: Public key lines of the other followers by name, at a follower.
    """

    name: str
    leader: str
    followers: tuple[str, ...]
    data: DataSet
    key: tuple[str, ...]
    session: str
    rules: ItemRules = field(default_factory=ItemRules)
    reveal: str = "leader"
    memory: int | None = None
    sign: bool = True
    identity: Identity | None = None
    pins: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reading()  # refuses a key of no columns and too little memory
        if self.reveal not in REVEALS:
            raise JobError(f"reveal: {self.reveal!r} is not known; {did_you_mean(self.reveal, REVEALS)}")
        parties = (self.leader, *self.followers)
        if len(set(parties)) != len(parties) or not self.followers:
            raise JobError(
                f"parties: {', '.join(parties)}; a leader and at least one follower, each named once, are needed"
            )
        if self.name not in parties:
            raise JobError(f"name: {self.name!r} takes no part; {did_you_mean(self.name, parties)}")
        if self.sign and not self.leads:
            lacking = sorted(set(self.followers) - {self.name} - set(self.pins))
            if self.identity is None or lacking:
                what = "the own identity" if self.identity is None else f"the keys of {', '.join(lacking)}"
                raise JobError(
                    f"sign: {what} must be known here, so that the leader cannot put its own keys in the place of the "
                    "followers'; pin them, or let no follower sign where the leader is trusted with that"
                )

    @property
    def leads(self) -> bool:
        """Whether this party is the leader."""
        return self.name == self.leader

    @property
    def learns_rows(self) -> bool:
        """Whether this party is told which of its rows match."""
        return self.leads or self.reveal == "all"

    @property
    def others(self) -> tuple[str, ...]:
        """The parties that this one has a channel to, in an order that all know."""
        return tuple(sorted(self.followers)) if self.leads else (self.leader,)

    def reading(self) -> Side:
        """What reading the keys needs, in the form of an intersection of two."""
        return Side("sender", self.data, self.key, self.session, self.rules, memory=self.memory)

    def authenticator(self) -> Authenticator | None:
        """Signs and checks keys with the pinned identities; None where keys are not signed."""
        identity = self.identity
        if not self.sign or identity is None:
            return None

        def verify(name: str, message: bytes, signature: bytes) -> bool:
            try:
                public_key(self.pins[name]).verify(signature, message, ec.ECDSA(hashes.SHA384()))
            except InvalidSignature:
                return False
            return True

        return Authenticator(
            lambda message: identity.private_key.sign(message, ec.ECDSA(hashes.SHA384())), verify
        )


def intersect_star(
    meet: Callable[[], Channels], side: StarSide, out: Path, watch: Watch = lambda phase, done, of: None
) -> dict[str, Any]:
    """Take part in an intersection of several parties, and write `rows.parquet` and `result.json` to `out`.

    Args:
        meet: Opens the channels, by the other party's name: the leader's to all, a follower's to the leader; called
            when the own keys are read.
        side: What this party brings.
        out: Folder; made when absent.
        watch: Told the progress.

    Returns:
        What stands in `result.json`: counts, seconds per phase, memory, bytes.

    Raises:
        DataError: The data cannot be read, or lacks a key column, or the result cannot be written or the keys not be
            kept; then nothing of the result is left.
        ProtocolFailed: The parties do not agree on the settings, a message was wrong, or the self-check failed.
        PeerLost: Another party, which is named, did not come or went away. A follower sees the leader alone: it is
            named there whoever went first.
        JobError: The folder cannot be made, or `meet` opened other channels than the party needs.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(
            f"out: the folder {out} cannot be made ({error.strerror}); choose another place"
        ) from error
    phases, compiling = Phases(watch), CompileClock()
    with keeping(out):
        with phases("read") as told:
            read = read_keys(side.reading(), out, told)
        with phases("collapse"):
            read.store.collapse()
    store, items = read.store, len(read.store)
    found = RowsFile(out / ROWS, store)
    try:
        with phases("meet"):
            channels = _met(meet, side)
        with ExitStack() as stack, keeping(out):
            for channel in channels.values():
                stack.enter_context(channel)
            try:
                with phases("agree"):
                    seed = _agree(channels, side, read.kinds)
                # From here on a result that is there would be of another run than the last.
                for stale in (ROWS, RESULT):
                    (out / stale).unlink(missing_ok=True)
                store.plant(planted(PLANTED, seed))
                with phases("star") as told:
                    positions = _run(channels, side, store.whole(), seed, told)
                with phases("check"):
                    _check(channels, side, found, positions)
            except ProtocolError as error:
                raise ProtocolFailed(error.message, step=error.step) from error
        with phases("write"):
            if side.learns_rows:
                found.finish()
    finally:
        found.discard()
        store.close()
    result = {
        **_told(side, read, items),
        "intersection": found.matches if side.learns_rows else None,
        "matched_rows": found.written if side.learns_rows else None,
        "self_check": {"planted": PLANTED, "returned": PLANTED},
        "phases": phases.taken,
        "compile_seconds": compiling.seconds,
        "peak_memory_bytes": peak_memory(),
        "spilled_bytes": store.spilled,
        "bytes": {
            "sent": sum(channel.counters.sent.bytes for channel in channels.values()),
            "received": sum(channel.counters.received.bytes for channel in channels.values()),
        },
    }
    try:
        save(out / RESULT, lambda file: file.write_text(json.dumps(result, indent=1) + "\n"))
    except DataError:
        (out / ROWS).unlink(missing_ok=True)
        raise
    return result


def _told(side: StarSide, read: Read, items: int) -> dict[str, Any]:
    """The part of the result that is known before the protocol."""
    return {
        "kind": "psi",
        "session": side.session,
        "role": "leader" if side.leads else "follower",
        "parties": [side.leader, *sorted(side.followers)],
        "protocol": {
            "name": "star",
            "version": VERSION,
            "parameters": parameters.VERSION,
            "assumption": ASSUMPTION,
            "signed_keys": side.sign,
        },
        "reveal": "rows",
        "to": side.reveal,
        "rules": json.loads(side.rules.canonical()),
        "rows": read.rows,
        "nulls": read.nulls,
        "duplicates": read.store.duplicates,
        "items": items,
    }


def _met(meet: Callable[[], Channels], side: StarSide) -> dict[str, FramedChannel]:
    """The channels this party needs, in an order that all know."""
    try:
        channels = meet()
    except ProtocolError as error:
        raise ProtocolFailed(error.message, step=error.step) from error
    if set(channels) != set(side.others):
        for channel in channels.values():
            channel.abort()
        raise JobError(
            f"{side.name} met {', '.join(sorted(channels)) or 'nobody'}; needed are {', '.join(side.others)}"
        )
    return {name: channels[name] for name in side.others}


def _agree(channels: Channels, side: StarSide, kinds: Sequence[str]) -> bytes:
    """Shake hands with each; the seed of the planted items, to which all contributed."""
    hello = Hello(
        protocol="psi star",
        version=VERSION,
        table=str(parameters.VERSION),
        session=side.session,
        role="leader" if side.leads else "follower",
        options={
            "parties": ", ".join([side.leader, *sorted(side.followers)]),
            "reveal": side.reveal,
            "keys are signed": side.sign,
            # One by one, so that an error names the rule in which the sides differ.
            **json.loads(side.rules.canonical()),
            "types of the key": ", ".join(kinds),
        },
    )
    for name, channel in channels.items():
        try:
            shake_hands(channel, hello, peer_role="follower" if side.leads else "leader", cures=_CURES)
        except ProtocolError as error:
            raise ProtocolError(f"with {name}: {error.message}", step=error.step) from error
    own = secrets.token_bytes(_NONCE)
    if side.leads:
        all_ = own + b"".join(bytes(each.recv("psi.nonce", size=_NONCE)) for each in channels.values())
        for channel in channels.values():
            channel.send("psi.nonces", all_)
    else:
        (channel,) = channels.values()
        channel.send("psi.nonce", own)
        all_ = bytes(channel.recv("psi.nonces", size=_NONCE * (1 + len(side.followers))))
        place = _NONCE * (1 + sorted(side.followers).index(side.name))
        if all_[place : place + _NONCE] != own:
            raise ProtocolError(
                "the own random number is not among those that the leader collected; the leader does not follow the "
                "protocol, or the parties are not in the same session",
                step="psi.nonces",
            )
    return hashlib.sha256(
        b"fedcore psi star" + hashlib.sha256(side.session.encode()).digest() + all_
    ).digest()


def _run(
    channels: Channels, side: StarSide, items: npt.NDArray[np.uint64], seed: bytes, watch: Watch
) -> npt.NDArray[np.int64] | None:
    """Positions, with the planted items among them."""
    reveal = cast(star.Reveal, side.reveal)
    if side.leads:

        def stop() -> None:
            for channel in channels.values():
                channel.abort()

        return star.lead(
            channels, items, name=side.name, reveal=reveal, session=seed, stop=stop, progress=watch
        )
    return star.follow(
        channels[side.leader],
        items,
        name=side.name,
        leader=side.leader,
        followers=side.followers,
        reveal=reveal,
        session=seed,
        authenticator=side.authenticator(),
        progress=watch,
    )


def _check(
    channels: Channels, side: StarSide, found: RowsFile, positions: npt.NDArray[np.int64] | None
) -> None:
    """The rows of the matches go to the file; planted items must all be there, and all parties found as many."""
    if positions is not None:
        found.append(positions)
        check_back(len(found.planted), PLANTED, "psi.check")
    own = found.matches if side.reveal == "all" else -1
    # The leader answers when it has heard all: a follower that has its answer knows that no party has failed.
    if side.leads:
        for name, channel in channels.items():
            _compare(own, channel, name)
    for channel in channels.values():
        channel.send("psi.count", np.array([own], dtype="<i8"))
    if not side.leads:
        _compare(own, channels[side.leader], side.leader)


def _compare(own: int, channel: FramedChannel, name: str) -> None:
    other = int(np.frombuffer(channel.recv("psi.count", size=8), dtype="<i8")[0])
    if own != other:
        raise ProtocolError(
            f"this side found {own} matches, {name} {other}; the result is not used. Run it again, and report it "
            "when it happens again",
            step="psi.check",
        )
