"""Set intersection of a small set with a large one that was published before: each query costs only the small one.

    once       S publishes F(y) = hash(y, k H(y)) of all its y, cut short and sorted (`ecdh_published`)
    query      R -> S   r H(x) for each x, r fresh
               S -> R   k r H(x)
    result     R computes F(x) = hash(x, 1/r k r H(x)) and looks it up

Who learns what. `query_receive` learns which of its items the published set has, and nothing of the rest: F(y) is a
pseudo-random value of an item R did not ask for. `query_send` learns how many items were asked for. Whoever has the
published set learns how many items it has, and that it has not changed between two queries.

The key answers for whatever R asks, so S has to bound and count the items asked for; identifiers of a small domain
can otherwise be tried one after another. Who has both key and published set can try without asking: the key stays
at S, and when it is lost or the set changes, a new key makes a new set. A set published twice under one key
shows which items are in both.

Semi-honest parties. Assumption: one-more gap Diffie-Hellman in ristretto255, H and hash random oracles. A false match
is found with probability at most 2^-40 over the `lifetime` of the set, the number of items asked for in all.

Cost: for S once a scalar multiplication for each y, and 8.2 bytes at 2^20 items with a lifetime of 2^20; a query: 64
bytes for each x, two multiplications at R and one at S. Rounds: 2 and one for each batch.

Source: Jarecki and Liu, SCN 2010; Jarecki, Kiayias, Krawczyk, ASIACRYPT 2014, eprint 2014/650 (2HashDH); Resende and
Aranha, FC 2018, eprint 2017/677 (unequal sizes).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field

import numpy as np

from crypto.channel import Channel, recv_array
from crypto.errors import ProtocolError
from crypto.psi import parameters
from crypto.psi.ecdh_published import FORMAT, KEY_ID, Published, layout, look, pack
from crypto.psi.ecdh_rounds import BATCH
from crypto.psi.group import POINT, SCALAR, inverse, mask_items, multiply, new_scalar, public_of, tags
from crypto.psi.matching import Blocks, Positions, check_items

LIFETIME = 1 << 30
"""Items asked for in all, where a publisher says nothing else."""
_LABEL = b"ecdh cached tag"
_GREETING = struct.Struct("<8sHHI16sQ")
_MAGIC = b"fc-query"


@dataclass(frozen=True)
class Key:
    """The secret of a published set.

    Args:
        scalar: 32 bytes.
    """

    scalar: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.scalar) != SCALAR or not any(self.scalar):
            raise ValueError(f"a key has {SCALAR} bytes, not all of them zero")

    @property
    def identity(self) -> bytes:
        """What a published set names its key by, 16 bytes, no secret."""
        return hashlib.sha256(b"fedcore ecdh cached key" + public_of(self.scalar)).digest()[:KEY_ID]


def new_key() -> Key:
    """A fresh key."""
    return Key(new_scalar())


def publish(items: Blocks, key: Key, *, lifetime: int = LIFETIME, threads: int | None = None) -> bytes:
    """The bytes to give to everyone who may ask, for `ecdh_published.open_published`.

    Args:
        items: (n, 2) uint64, distinct.
        key: Fresh for each set.
        lifetime: Items that may be asked for in all, over all queries.
        threads: At most this many; all processors where None.

    Raises:
        ValueError: An item stands in the set twice, or the lifetime is not positive or too long for tags.
    """
    if not 1 <= lifetime < 2**63:
        raise ValueError(f"a lifetime is a positive number of items, not {lifetime}")
    whole = check_items(items)
    layout(whole.shape[0], lifetime)
    out = np.empty((whole.shape[0], 2), dtype=np.uint64)
    for low in range(0, whole.shape[0], BATCH):
        part = whole[low : low + BATCH]
        masked = mask_items(part, key.scalar, threads=threads)
        out[low : low + BATCH] = tags(masked, _LABEL, items=part, threads=threads)
    return pack(out, key.identity, lifetime)


def query_receive(
    channel: Channel, items: Blocks, published: Published, *, threads: int | None = None, batch: int = BATCH
) -> Positions:
    """The side that asks.

    Args:
        channel: To `query_send`.
        items: (n, 2) uint64, distinct, any n.
        published: The large side's set.
        threads: At most this many; all processors where None.
        batch: Items in a message; the same on both sides.

    Returns:
        Positions in `items` that are in the published set, (k,) int64, ascending.

    Raises:
        ValueError: An item stands in the set twice, or there are more than the lifetime of the published set.
        ProtocolError: The other side has another key or version, or sent what is not allowed.
    """
    whole = check_items(items)
    count = whole.shape[0]
    if count > published.lifetime:
        raise ValueError(
            f"{count} items asked for; the set was published for {published.lifetime} in all: publish it again "
            "with a longer lifetime"
        )
    channel.send("ecdh.query", _greeting(published.key_id, count, batch))
    _agree(channel.recv("ecdh.query", size=_GREETING.size), published.key_id, batch)
    scalar = new_scalar()
    back = inverse(scalar)
    found = []
    masked = mask_items(whole[:batch], scalar, threads=threads)
    for low in range(0, count, batch):
        channel.send("ecdh.asked", masked)
        # The next batch is masked while the other side works on this one.
        masked = mask_items(whole[low + batch : low + 2 * batch], scalar, threads=threads)
        part = whole[low : low + batch]
        came = recv_array(channel, "ecdh.answered", np.uint8, part.shape[0], POINT)
        points = multiply(came, back, "ecdh.answered", threads=threads)
        found.append(low + look(published, tags(points, _LABEL, items=part, threads=threads)))
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def query_send(
    channel: Channel, key: Key, *, most: int, threads: int | None = None, batch: int = BATCH
) -> int:
    """The side that published the set.

    Args:
        channel: To `query_receive`.
        key: That the set was published with.
        most: Items it answers for in this query; what is left of the set's lifetime, or less.
        threads: At most this many; all processors where None.
        batch: Items in a message; the same on both sides.

    Returns:
        Items it answered for, to be taken off what is left.

    Raises:
        ProtocolError: The other side asks for too many, has another key or version, or sent what is not allowed.
    """
    told = channel.recv("ecdh.query", size=_GREETING.size)
    channel.send("ecdh.query", _greeting(key.identity, 0, batch))
    count = _agree(told, key.identity, batch)
    if count > most:
        raise ProtocolError(f"{count} items asked for, {most} are allowed", step="ecdh.query")
    for low in range(0, count, batch):
        asked = recv_array(channel, "ecdh.asked", np.uint8, min(batch, count - low), POINT)
        channel.send("ecdh.answered", multiply(asked, key.scalar, "ecdh.asked", threads=threads))
    return count


def _greeting(key_id: bytes, count: int, batch: int) -> bytes:
    return _GREETING.pack(_MAGIC, FORMAT, parameters.VERSION, batch, key_id, count)


def _agree(told: memoryview, key_id: bytes, batch: int) -> int:
    """Check the other side's greeting; the items it asks for."""
    step = "ecdh.query"
    magic, form, version, other_batch, other_key, count = _GREETING.unpack(told)
    if magic != _MAGIC:
        raise ProtocolError("what came is no query", step=step)
    for what, ours, theirs in (
        ("version of the messages", FORMAT, form),
        ("version of the parameters", parameters.VERSION, version),
        ("items in a message", batch, other_batch),
    ):
        if ours != theirs:
            raise ProtocolError(
                f"{what}: this side has {ours}, the other {theirs}; both must have the same", step=step
            )
    if not hmac.compare_digest(key_id, other_key):
        raise ProtocolError(
            f"the set was published with key {key_id.hex()} on this side, {other_key.hex()} on the other: fetch "
            "the set that is in use",
            step=step,
        )
    return int(count)
