"""Set intersection of more than two parties: one leads, each of the others talks with the leader alone.

    followers        keys of each two, through the leader: shares s_i(x) that XOR to zero over all followers
    for follower i   OPRF (`oprf`): the leader gets F_i(x) of its items x, the follower F_i itself
    i -> leader      store P_i with Decode(P_i, y) = F_i(y) + s_i(y) for each item y of follower i
    result           x is in all sets where the XOR over i of Decode(P_i, x) + F_i(x) is zero
    leader -> i      (`reveal="all"`) F_i(x), cut short, of each x in the result, in one order for all

Who learns what. The leader learns which of its items are in all sets, and the number of items of each follower; not
which items are in some of the other sets only: what it decodes for such an item looks random. A follower learns the
names of all parties and the number of the leader's items, not that of other followers; with `reveal="leader"` nothing
else, with "all" which of its items are in all sets. Row i of the result is then the same item at every party, and the
order is a secret random one, so that it tells nothing of the order at the leader.

What parties learn that put together what they see:

- followers without the leader: nothing beyond what each learns by itself;
- the leader and some followers: which of the leader's items are in the sets of ALL the other followers, whether or not
  the colluding followers have them. Against the leader and all followers but one there is no more to hide behind: they
  learn which of the leader's items that one has. They learn nothing of items that the leader does not have.

That is what they would learn had each of them taken the leader's set for its own. A protocol is called secure in the
augmented semi-honest model when this is not held against it: parties follow the protocol, but may choose their sets.
Who needs more (nothing about the leader's items that colluding followers do not have) needs the conditional sharing of
the same paper, which is not built here.

Semi-honest parties. A leader that changes the keys it forwards gets the result of each follower's set with its own
apart, unless the followers sign them: see `zero_sharing.Authenticator`. Nothing else is claimed against parties that do
not follow the protocol; nothing holds a party to its true set, and two runs over sets that differ by one item show
whether that item is shared. With one follower this is two-party intersection, for which `vole_psi` costs less.

Assumptions: those of `oprf` and `zero_sharing`. An item that is not in all sets is found with probability 2^-128, of
which 2^-96 is left over all items of a run; a tag of "all" is wrong with probability at most 2^-40 at each follower,
and then noticed.

Cost at a million items a side, for each follower: 23 bytes an item of the leader and 21 an item of the follower. 3
rounds for the keys, 4 for VOLE, then one stream each way. The leader holds some 100 bytes an item for each follower
while they work side by side, a follower some 100 bytes an item of the larger of the two sets.

Source: Kolesnikov, Matania, Pinkas, Rosulek, Trieu, "Practical Multi-party Private Set Intersection from Symmetric-Key
Techniques", CCS 2017 (eprint 2017/799), the protocol in the augmented semi-honest model. Differences: the programmable
function is an OPRF from VOLE and an oblivious key-value store; the leader has no keys with the followers, whose terms
it could take out again; the result for all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel, array_from, recv_array
from crypto.errors import ProtocolError
from crypto.psi import okvs, oprf
from crypto.psi.matching import check_items, first_duplicate, members
from crypto.psi.okvs_shape import shape_for
from crypto.psi.parameters import mask_bytes
from crypto.psi.shuffle import new_seed, permutation
from crypto.psi.star_messages import Greeting, greet, join_keys, split_keys
from crypto.psi.zero_sharing import PUBLIC, Shares, new_key
from crypto.signatures import MOST_SIGNATURE, Authenticator

Blocks = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]
Reveal = Literal["leader", "all"]
Progress = Callable[[str, int, int], None]
"""Told a phase, what is done of it and what there is in all."""

MOST_ITEMS = oprf.MOST_ITEMS


def _quiet(phase: str, done: int, of: int) -> None:
    """Tell nobody."""


def _nothing() -> None:
    """Stop nobody."""


# ---- the leader -------------------------------------------------------------------------------------------------------


def lead(
    channels: Mapping[str, Channel],
    items: Blocks,
    *,
    name: str,
    reveal: Reveal = "leader",
    session: bytes = b"",
    stop: Callable[[], None] = _nothing,
    threads: int = 1,
    progress: Progress = _quiet,
) -> Positions:
    """The party that learns the result.

    Args:
        channels: To each of the others, which call `follow`, by name.
        items: (n, 2) uint64, distinct, hashes of 128 bits; any n below 2^32.
        name: This party.
        reveal: Who learns the result, the same at all parties.
        session: The same at all parties, and better another in every run; at most 255 bytes.
        stop: Called once when work with one of the others has failed: makes sending and receiving over all of the
            channels fail, so that nobody waits for what does not come any more. Without it, the others' work goes on
            to its end or its deadlines before the error is raised.
        threads: For the store, with each of the others.
        progress: Told with how many of the others a phase is done; may be called by several threads in turn.

    Returns:
        Positions in `items` that are in all sets, (k,) int64: ascending, or for "all" in an order shared with
        `follow`, so that row i here belongs to row i there.

    Raises:
        ValueError: An item stands in the set twice, the array has another form, or a name cannot be one.
        ProtocolError: One of the others, who is named, sent what the protocol does not allow.
        Exception: What a channel raised.
    """
    items = check_items(items)
    mine = Greeting(name, tuple(sorted(channels)), reveal, session, len(items))
    together = _Together(channels, stop, progress)
    sizes: dict[str, int] = {}
    keys: dict[str, bytes] = {}

    def meet(other: str, channel: Channel) -> None:
        sizes[other] = greet(channel, mine)
        keys[other] = bytes(channel.recv("star.key", limit=PUBLIC + MOST_SIGNATURE))
        if len(keys[other]) < PUBLIC:
            raise ProtocolError(
                f"a key of {len(keys[other])} bytes came; one has at least {PUBLIC}", step="star.key"
            )

    total = np.zeros_like(items)
    values: dict[str, Blocks] = {}
    adding = threading.Lock()

    def exchange(other: str, channel: Channel) -> None:
        channel.send("star.keys", join_keys([keys[each] for each in mine.followers if each != other]))
        found, value = _share(channel, items, sizes[other], threads)
        with adding:
            np.bitwise_xor(total, found, out=total)
            if reveal == "all":
                values[other] = value

    together.each("keys", meet)
    together.each("exchange", exchange)
    result = np.flatnonzero((total[:, 0] | total[:, 1]) == 0)
    if reveal == "leader":
        return result
    result = result[permutation(len(result), new_seed())]

    def tell(other: str, channel: Channel) -> None:
        size = mask_bytes(sizes[other], len(items))
        channel.send("star.matches", _cut(values.pop(other)[result], size).tobytes())

    together.each("result", tell)
    return result


def _share(channel: Channel, items: Blocks, theirs: int, threads: int) -> tuple[Blocks, Blocks]:
    """For each item the follower's share of zero, where it has the item; and F of all."""
    value = oprf.receive(channel, items, threads=threads)
    shape = shape_for(theirs)
    seed = bytes(channel.recv("star.seed", size=okvs.SEED_BYTES))
    store = recv_array(channel, "star.store", np.uint64, shape.length, 2)
    found = okvs.decode(items, store, seed, shape, threads=threads)
    np.bitwise_xor(found, value, out=found)
    return found, value


class _Together:
    """Does the same with all of the others side by side, and stops all when one fails."""

    def __init__(self, channels: Mapping[str, Channel], stop: Callable[[], None], progress: Progress) -> None:
        self._channels, self._stop, self._progress = channels, stop, progress
        self._lock = threading.Lock()

    def each(self, phase: str, work: Callable[[str, Channel], None]) -> None:
        """Call `work` with each name and channel; return when all are done.

        Raises:
            ProtocolError: With the name before it, and whatever else the first to fail has raised.
        """
        failed: list[tuple[str, BaseException]] = []
        done = 0
        self._progress(phase, 0, len(self._channels))

        def go(name: str, channel: Channel) -> None:
            nonlocal done
            try:
                work(name, channel)
                with self._lock:
                    done += 1
                    self._progress(phase, done, len(self._channels))
            except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
                with self._lock:
                    failed.append((name, error))
                    first = len(failed) == 1
                if first:
                    self._stop()

        threads = [
            threading.Thread(target=go, args=each, name=f"star-{each[0]}", daemon=True)
            for each in self._channels.items()
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._stop()
            raise
        if failed:
            # The others failed because of the first.
            name, error = failed[0]
            if isinstance(error, ProtocolError):
                raise ProtocolError(f"with {name}: {error.message}", step=error.step) from error
            error.add_note(f"in the intersection's work with {name}")
            raise error


# ---- a follower ---------------------------------------------------------------------------------------------------------


def follow(
    channel: Channel,
    items: Blocks,
    *,
    name: str,
    leader: str,
    followers: Sequence[str],
    reveal: Reveal = "leader",
    session: bytes = b"",
    authenticator: Authenticator | None = None,
    threads: int = 1,
    progress: Progress = _quiet,
) -> Positions | None:
    """One of the others.

    Args:
        channel: To the party that calls `lead`.
        items, reveal, session, threads: As in `lead`.
        name: This party.
        leader: The party at the other end of the channel.
        followers: All parties but the leader, this one among them, in any order.
        authenticator: Of the pinned identities; all followers have one, or none. With None a leader that does not
            follow the protocol can put itself between the followers.
        progress: Told how far it is.

    Returns:
        None, or for "all" the positions in `items` of the intersection in the order shared with all.

    Raises:
        ValueError: An item stands in the set twice, the array has another form, or a name cannot be one.
        ProtocolError: The leader sent what the protocol does not allow, or a key was not signed as it has to be.
        Exception: What a channel raised.
    """
    items = check_items(items)
    mine = Greeting(leader, tuple(sorted(followers)), reveal, session, len(items))
    if name not in mine.followers:
        raise ValueError(f"{name!r} is not among the followers {', '.join(mine.followers)}")
    progress("keys", 0, 1)
    theirs = greet(channel, mine)
    own = new_key(name, mine.digest(), authenticator)
    channel.send("star.key", own.message())
    rest = [each for each in mine.followers if each != name]
    told = split_keys(channel.recv("star.keys", limit=(2 + PUBLIC + MOST_SIGNATURE) * len(rest)), rest)
    shares = Shares({other: own.shared(other, message) for other, message in told.items()})
    progress("exchange", 0, 1)
    function = oprf.send(channel, asked=theirs)
    values = function.evaluate(items, threads=threads)
    del function
    tags = _cut(values, mask_bytes(len(items), theirs)) if reveal == "all" else None
    shares.add(items, values)
    seed, store = _encode(items, values, threads)
    channel.send("star.seed", seed)
    channel.send("star.store", store)
    del store, values
    progress("exchange", 1, 1)
    return None if tags is None else _find(channel, tags, theirs)


def _encode(items: Blocks, values: Blocks, threads: int) -> tuple[bytes, Blocks]:
    try:
        return okvs.encode_with_fresh_seed(items, lambda seed: values, shape_for(len(items)), threads=threads)
    except okvs.EncodingFailed as error:
        raise ProtocolError(f"no store for these items ({error}); run it again", step="star.store") from None


def _find(channel: Channel, own: Bytes, most: int) -> Positions:
    """Where the tags that the leader sends stand among the own, in the leader's order."""
    size = own.shape[1]
    told = channel.recv("star.matches", limit=size * min(len(own), most))
    if len(told) % size:
        raise ProtocolError(
            f"{len(told)} bytes of tags came, which are no multiple of {size}", step="star.matches"
        )
    tags = _padded(array_from(told, "star.matches", np.uint8, len(told) // size, size))
    mine = _padded(own)
    if first_duplicate(tags) is not None:
        raise ProtocolError("a match is told twice", step="star.matches")
    found = members(mine, tags)
    if len(found) != len(tags):
        raise ProtocolError(
            f"{len(tags)} matches are told, {len(found)} of the own items have their tags; the leader does not "
            "follow the protocol, or two tags are equal by chance, which happens once in 2^40 runs: run it again",
            step="star.matches",
        )
    # The same tags in two orders: the n-th smallest here is the n-th smallest there.
    result = np.empty(len(tags), dtype=np.int64)
    result[np.lexsort(tags.T)] = found[np.lexsort(mine[found].T)]
    return result


def _cut(values: Blocks, size: int) -> Bytes:
    """The first `size` bytes of each, (n, size) uint8."""
    return values.astype("<u8", copy=False).view(np.uint8).reshape(-1, 16)[:, :size].copy()


def _padded(tags: Bytes) -> Blocks:
    whole = np.zeros((len(tags), 16), dtype=np.uint8)
    whole[:, : tags.shape[1]] = tags
    return whole.view("<u8").reshape(-1, 2)
