"""What a participant keeps between the messages of a run, also as bytes for another process to go on from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from crypto.streams import StreamCipher, check_cipher

Done = Literal["begun", "masked", "confirmed", "revealed"]
_SHARE = 32
_SAVED = 2


@dataclass(repr=False)
class RoundState:
    """Where a participant is in a round, the shares of b and u that it holds of others, what its vector was made of."""

    number: int
    done: Done
    begun: frozenset[int]
    shares: dict[int, tuple[bytes, bytes]]
    survivors: frozenset[int] = field(default_factory=frozenset)
    made_of: bytes = b""


@dataclass(frozen=True, repr=False)
class State:
    """All that a participant knows, secrets in clear.

    Args:
        name: Its own.
        run: 32 bytes.
        key: Private key, 32 bytes.
        signature: Of the public key, as it was advertised.
        root: That its own secrets come from, 32 bytes.
        leaves: Of the cohort; empty before the roster.
        pairs: Secrets with the neighbours, ascending; empty before the roster.
        round: The last that was begun.
        cipher: Of the masks.
    """

    name: str
    run: bytes
    key: bytes
    signature: bytes
    root: bytes
    leaves: tuple[bytes, ...]
    pairs: dict[int, bytes]
    round: RoundState | None
    cipher: StreamCipher = "aes"


def dump(state: State) -> bytes:
    """A state as JSON."""
    at = state.round
    told: dict[str, Any] = {
        "version": _SAVED,
        "name": state.name,
        "run": state.run.hex(),
        "key": state.key.hex(),
        "signature": state.signature.hex(),
        "root": state.root.hex(),
        "leaves": [leaf.hex() for leaf in state.leaves],
        "pairs": {str(other): pair.hex() for other, pair in state.pairs.items()},
        "cipher": state.cipher,
    }
    if at is not None:
        told["round"] = {
            "number": at.number,
            "done": at.done,
            "begun": sorted(at.begun),
            "survivors": sorted(at.survivors),
            "made of": at.made_of.hex(),
            "shares": {str(other): (b + u).hex() for other, (b, u) in at.shares.items()},
        }
    return json.dumps(told).encode()


def load(saved: bytes) -> State:
    """The state that was dumped.

    Raises:
        ValueError: It is none, or one of another version.
    """
    try:
        told = json.loads(saved)
        if told["version"] != _SAVED:
            raise ValueError(f"a state of version {told['version']}; this side has {_SAVED}")
        # States from before there was a second cipher do not name theirs.
        cipher = told.get("cipher", "aes")
        check_cipher(cipher)
        return State(
            told["name"],
            bytes.fromhex(told["run"]),
            bytes.fromhex(told["key"]),
            bytes.fromhex(told["signature"]),
            bytes.fromhex(told["root"]),
            tuple(bytes.fromhex(leaf) for leaf in told["leaves"]),
            {int(other): bytes.fromhex(pair) for other, pair in told["pairs"].items()},
            _round(told["round"]) if "round" in told else None,
            cipher,
        )
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError("this is no saved state of a participant") from None


def _round(told: dict[str, Any]) -> RoundState:
    both = {int(other): bytes.fromhex(each) for other, each in told["shares"].items()}
    return RoundState(
        told["number"],
        told["done"],
        frozenset(told["begun"]),
        {other: (each[:_SHARE], each[_SHARE:]) for other, each in both.items()},
        frozenset(told["survivors"]),
        bytes.fromhex(told["made of"]),
    )
