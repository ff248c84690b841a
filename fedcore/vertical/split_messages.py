"""What the parties of a split network say to each other: terms, the order of the rows, activations and gradients.

    hello                        both ways        settings, rows and fit, which must be the same at both (fit: below)
    split.commit    32 bytes     holder, partner  SHA-256 of the holder's contribution to the seed of the order
    split.nonce     32 bytes     partner, holder  the partner's contribution
    split.open      32 + 32 k    holder, partner  the holder's contribution, and those of all k partners
    split.forward   float32      partner, holder  activations of a batch, [rows, width]
    split.backward  float32      holder, partner  gradients of the loss with respect to them, same shape
    split.predict   float32      partner, holder  activations of rows to predict

Nobody chooses the order: the holder is bound to its contribution before it sees the partners'. The order of an epoch
sorts the rows by a stream of SHAKE-256, so that it is the same under every version of every library.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel, recv_array
from crypto.errors import ProtocolError
from fedcore.jobs.vertical import SplitNetwork
from fedcore.peer.handshake import Hello, shake_hands

VERSION = 1
NONCE = 32
"""Bytes."""
Role = Literal["label holder", "partner"]
Activations = npt.NDArray[np.float32]

_CURES = {
    "rows": "both sides need the same rows in the same order: match them again",
    "fit": "the two sides' models were not trained together: load those of one run",
    **dict.fromkeys(
        ("bottom", "top", "epochs", "batch", "lr", "protect", "noise"),
        "both sides take the model's settings from one job: start both from the same",
    ),
}


def agree(channel: Channel, role: Role, settings: SplitNetwork, rows: int, fit: str = "") -> None:
    """Shake hands on the settings.

    Args:
        channel: To the other side.
        role: Of this side.
        settings: Of the job.
        rows: That this side has.
        fit: Name of the training whose models predict; empty before it.

    Raises:
        ProtocolError: The sides differ; what, both values and the cure are named.
    """
    told = settings.model_dump(exclude={"use"})
    options = {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}
    other = "partner" if role == "label holder" else "label holder"
    mine = Hello("split network", VERSION, "none", "split", role, {**options, "rows": rows, "fit": fit})
    shake_hands(channel, mine, peer_role=other, cures=_CURES)


def order_seed_holder(channels: Sequence[Channel]) -> bytes:
    """32 bytes to which everybody contributed; at the label holder."""
    own = secrets.token_bytes(NONCE)
    for channel in channels:
        channel.send("split.commit", hashlib.sha256(own).digest())
    theirs = b"".join(bytes(channel.recv("split.nonce", size=NONCE)) for channel in channels)
    for channel in channels:
        channel.send("split.open", own + theirs)
    return hashlib.sha256(b"fedcore split order" + own + theirs).digest()


def order_seed_partner(channel: Channel) -> bytes:
    """32 bytes to which everybody contributed; at a partner.

    Raises:
        ProtocolError: The label holder opened another contribution than it had committed to, or left this one out.
    """
    step = "split.open"
    promised = bytes(channel.recv("split.commit", size=hashlib.sha256().digest_size))
    own = secrets.token_bytes(NONCE)
    channel.send("split.nonce", own)
    opened = bytes(channel.recv(step, limit=NONCE * 1025))
    if not hmac.compare_digest(hashlib.sha256(opened[:NONCE]).digest(), promised):
        raise ProtocolError(
            "the label holder's contribution to the order of the rows is not the one it had committed to; the run is "
            "not gone on with",
            step=step,
        )
    theirs = [opened[at : at + NONCE] for at in range(NONCE, len(opened), NONCE)]
    if own not in theirs:
        raise ProtocolError(
            "the order of the rows leaves out this side's contribution; the run is not gone on with",
            step=step,
        )
    return hashlib.sha256(b"fedcore split order" + opened).digest()


def fit_name(seed: bytes) -> str:
    """Name of a training, by which models that belong together are known; tells nothing of the seed."""
    return hashlib.sha256(b"fedcore split fit" + seed).hexdigest()[:32]


def batches(seed: bytes, epoch: int, rows: int, batch: int) -> list[npt.NDArray[np.intp]]:
    """Row numbers of an epoch's batches, which differ by one row in size at most.

    Args:
        seed: Of the order.
        epoch: From 0.
        rows: How many there are.
        batch: Most rows of a batch. No batch is much smaller than the others: the noise of `max-norm` needs company.
    """
    stream = hashlib.shake_256(seed + epoch.to_bytes(8, "little")).digest(8 * rows)
    order = np.argsort(np.frombuffer(stream, dtype="<u8"), kind="stable")
    return np.array_split(order, -(-rows // batch))


def send_floats(channel: Channel, step: str, values: Activations) -> None:
    """Send float32 numbers, little-endian."""
    channel.send(step, np.ascontiguousarray(values, dtype="<f4"))


def recv_floats(channel: Channel, step: str, rows: int, width: int) -> Activations:
    """Float32 numbers of a known shape, in memory of their own.

    Raises:
        ProtocolError: Another number of bytes came, or a number that is not finite.
    """
    values = recv_array(channel, step, "<f4", rows, width)
    if not np.isfinite(values).all():
        raise ProtocolError(
            "numbers that are not finite came; the other side's training diverged (a lower lr cures that) or it does "
            "not follow the protocol",
            step=step,
        )
    return np.array(values, dtype=np.float32)
