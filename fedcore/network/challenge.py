"""Whether a node is as fast as it says: it multiplies matrices nobody knew before, and the product is checked.

    coordinator -> node    seed (32 bytes), size n: the clock starts
    node -> coordinator    SHA-256 of the product: the clock stops
    node -> coordinator    the product

Both sides draw A and B from the seed: whole numbers, small enough that every sum is exact in the precision that is
asked, in whatever order it is summed. So the product is right or wrong, with no tolerance to hide in. The digest
comes first, so that the line's rate is not in the time; the shortest round trip is taken off.

The product is checked without computing it: for a random vector r modulo a prime p, A(Br) = Cr is tested in n^2
steps. A wrong C passes with probability at most 1/p for each vector; with two and p = 2^31 - 1, at most 2.2e-19. The
vectors are drawn after C has come.

What is shown is a lower bound: the node did at least this. It may have been helped by another machine, which is why
the descriptor binds its owner and not a serial number.

Source: Freivalds, "Probabilistic machines can use less running time", 1977. Outliers: Leys et al., "Detecting
outliers: do not use standard deviation around the mean, use absolute deviation around the median", 2013.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import statistics
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel
from crypto.errors import ProtocolError
from fedcore.network.quantity import Quantity

if TYPE_CHECKING:
    from fedcore.peer.channel import FramedChannel

STEP_ASK, STEP_DIGEST, STEP_PRODUCT = "challenge", "challenge-digest", "challenge-product"
PRIME = 2**31 - 1
VECTORS = 2
LEAST_HISTORY = 5
"""Residuals before which nothing is an outlier."""
MOST_DEVIATIONS = 3.0
_LEAST_DEVIATION = 0.02
"""Two per cent: less is the clock's, not the node's."""
_MAD = 1.4826
"""Makes the median absolute deviation of normal samples their standard deviation."""

Precision = Literal["fp32", "fp64"]
_EXACT = {"fp32": 24, "fp64": 53}
"""Whole numbers up to two to this are exact."""
_ASK = struct.Struct(">32sIB")
_SIZES = range(16, 8193)

Matrix = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Challenge:
    """What is asked.

    Args:
        seed: 32 random bytes; nobody else's matrices are these.
        n: Rows and columns, 16 to 8192.
        precision: In which the node is to multiply.
    """

    seed: bytes
    n: int
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if len(self.seed) != 32:
            raise ValueError(f"a seed has 32 bytes, not {len(self.seed)}")
        if self.n not in _SIZES:
            raise ValueError(f"matrices of {self.n}; allowed: {_SIZES.start} to {_SIZES.stop - 1}")
        if self.precision not in _EXACT:
            raise ValueError(
                f"precision is {self.precision!r}; allowed: {', '.join(_EXACT)}, in which sums are exact"
            )

    @property
    def largest(self) -> int:
        """Largest entry of A and B: n products of two stay below what is exact."""
        return min(255, math.isqrt((2 ** _EXACT[self.precision] - 1) // self.n))

    @property
    def operations(self) -> int:
        """2n^3: a multiplication and an addition for each triple."""
        return 2 * self.n**3


def new_challenge(n: int, precision: Precision = "fp32") -> Challenge:
    """One that nobody can have prepared for."""
    return Challenge(secrets.token_bytes(32), n, precision)


def matrices(challenge: Challenge) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A and B, (n, n), entries from 0 to `challenge.largest`; a function of the seed alone."""
    n = challenge.n
    # The seed is public, so a generator for repetition will do: who could predict PCG still has to multiply.
    drawn = np.random.Generator(np.random.PCG64(int.from_bytes(challenge.seed, "big")))
    both = drawn.integers(0, challenge.largest, endpoint=True, size=(2, n, n), dtype=np.uint8)
    return both[0], both[1]


def product(challenge: Challenge, device: str = "cpu") -> npt.NDArray[np.uint32]:
    """The node's work: AB by torch in the precision that is asked, exact.

    Args:
        challenge: What is asked.
        device: `cpu` or a CUDA device as torch names it.
    """
    import torch

    kind = torch.float32 if challenge.precision == "fp32" else torch.float64
    left, right = (torch.from_numpy(each).to(device, kind) for each in matrices(challenge))
    found: npt.NDArray[np.uint32] = (left @ right).cpu().numpy().astype(np.uint32)
    return found


def product_digest(found: npt.NDArray[np.uint32]) -> bytes:
    """SHA-256 of a product's entries, least significant byte first, row by row."""
    return hashlib.sha256(np.ascontiguousarray(found, dtype="<u4").data).digest()


def is_product(
    left: npt.NDArray[Any], right: npt.NDArray[Any], found: npt.NDArray[Any], vectors: int = VECTORS
) -> bool:
    """Whether `found` is the product of two matrices of whole numbers, by Freivalds' check modulo `PRIME`.

    Args:
        left, right: (n, k) and (k, m), whole numbers.
        found: (n, m), whole numbers; no entry of it, nor of the product, may be 2^31 - 1 or more or below zero.
        vectors: Random vectors; a wrong product passes with probability at most `PRIME ** -vectors`.

    Raises:
        ValueError: The shapes do not fit, or an entry is no whole number in range.
    """
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        raise ValueError(f"matrices of {left.shape} and {right.shape} cannot be multiplied")
    if found.shape != (left.shape[0], right.shape[1]):
        raise ValueError(f"a product of {found.shape}; it must be {(left.shape[0], right.shape[1])}")
    for each in (left, right, found):
        if each.dtype.kind not in "iu":
            raise ValueError(f"entries are {each.dtype}; they must be whole numbers")
        if each.size and (int(each.min()) < 0 or int(each.max()) >= PRIME):
            raise ValueError(f"entries must be from 0 to {PRIME - 1}")
    for _ in range(vectors):
        drawn = np.array([secrets.randbelow(PRIME) for _ in range(right.shape[1])], dtype=np.int64)
        if not np.array_equal(_times(left, _times(right, drawn)), _times(found, drawn)):
            return False
    return True


def _times(matrix: npt.NDArray[Any], vector: Matrix) -> Matrix:
    """A matrix times a vector modulo the prime. The vector goes in halves of 16 bits: an entry below 2^31 times one
    of them is below 2^47, and 2^16 such fit into 63 bits."""
    if matrix.shape[1] >= 2**16:
        raise ValueError(f"{matrix.shape[1]} columns; at most {2**16 - 1} can be summed without overflow")
    wide = matrix.astype(np.int64)
    low, high = vector & 0xFFFF, vector >> 16
    found: Matrix = ((wide @ high % PRIME) * 2**16 + wide @ low) % PRIME
    return found


@dataclass(frozen=True)
class Verdict:
    """What a challenge showed.

    Args:
        right: Whether the product is AB.
        seconds: From question to digest, less the shortest round trip and what drawing and hashing take here.
        seen: GFLOP/s that the node did at least; 0 for a wrong product.
        claimed: GFLOP/s that its descriptor says.
        residual: ln(time seen / time that the claim predicts): 0 as claimed, 0.69 twice as slow.
        outside: Whether the residual is out of line: above what a claim allows, or outside 3 MAD of its history.
        error: Probability that a wrong product would have passed.
        why: In a sentence.
    """

    right: bool
    seconds: float
    seen: float
    claimed: float
    residual: float
    outside: bool
    error: float
    why: str

    @property
    def probe_again(self) -> bool:
        """Whether the descriptor's rate must be measured anew before it is used."""
        return self.outside or not self.right


def judge(
    challenge: Challenge,
    found: npt.NDArray[np.uint32],
    seconds: float,
    claimed: Quantity,
    history: Sequence[float] = (),
) -> Verdict:
    """What to think of an answer.

    Args:
        challenge: What was asked.
        found: The product that came.
        seconds: Of computing: what is not the node's multiplication has been taken off.
        claimed: The rate of its descriptor, GFLOP/s.
        history: Residuals of earlier challenges to this node.

    Raises:
        ValueError: The product has another shape or impossible entries, the time is not positive, or the claim has
            another unit.
    """
    if not seconds > 0:
        raise ValueError(f"an answer after {seconds} s; it must take some time")
    if claimed.unit != "GFLOP/s":
        raise ValueError(f"the claim is in {claimed.unit}; it must be in GFLOP/s")
    error = float(PRIME) ** -VECTORS
    if not is_product(*matrices(challenge), found):
        why = "the product is wrong: the node did not do the work"
        return Verdict(False, seconds, 0.0, claimed.value, math.inf, True, error, why)
    seen = challenge.operations / seconds / 1e9
    residual = math.log(claimed.value / seen)
    outside, why = out_of_line(residual, history)
    # Also with a history: whoever was always slower than its claim is in line with itself.
    if residual > _allowed(claimed):
        outside, why = True, f"{seen:.3g} GFLOP/s were seen where {claimed.value:.3g} are claimed"
    return Verdict(True, seconds, seen, claimed.value, residual, outside, error, why or "as claimed")


def out_of_line(residual: float, history: Sequence[float]) -> tuple[bool, str]:
    """Whether a residual, of a challenge or of a round's time, is outside 3 MAD of those before it.

    Args:
        residual: ln(time seen / time predicted).
        history: Earlier ones; with fewer than 5 nothing is.

    Returns:
        Whether, and why.
    """
    if not math.isfinite(residual):
        return True, "the answer was wrong"
    if len(history) < LEAST_HISTORY:
        return False, ""
    middle = statistics.median(history)
    deviation = max(_MAD * statistics.median(abs(each - middle) for each in history), _LEAST_DEVIATION)
    away = abs(residual - middle) / deviation
    if away <= MOST_DEVIATIONS:
        return False, ""
    return (
        True,
        f"residual {residual:+.2f} is {away:.1f} deviations from {middle:+.2f}, its median of {len(history)}",
    )


def _allowed(claimed: Quantity) -> float:
    """ln by which an answer may fall short of a claim: three times the claim's own spread, at least a half."""
    return max(0.5, MOST_DEVIATIONS * (claimed.spread or 0.0))


# ---- over a channel ------------------------------------------------------------------------------------------------


def answer(channel: Channel, *, device: str = "cpu", most: int = 4096) -> None:
    """The node's side: multiply once.

    Args:
        channel: To the coordinator.
        device: Which the descriptor's rate is of.
        most: Largest n that is answered, so that nobody can keep a node busy with this.

    Raises:
        ProtocolError: It asks for what is not allowed.
        PeerLost: The other side is gone.
    """
    seed, n, exact = _ASK.unpack(channel.recv(STEP_ASK, size=_ASK.size))
    try:
        asked = Challenge(seed, n, "fp64" if exact == _EXACT["fp64"] else "fp32")
    except ValueError as error:
        raise ProtocolError(str(error), step=STEP_ASK) from None
    if n > most:
        raise ProtocolError(
            f"matrices of {n} were asked for; this node multiplies at most {most}", step=STEP_ASK
        )
    found = product(asked, device)
    channel.send(STEP_DIGEST, product_digest(found))
    channel.send(STEP_PRODUCT, np.ascontiguousarray(found, dtype="<u4"))


def ask(
    channel: FramedChannel,
    challenge: Challenge,
    claimed: Quantity,
    *,
    round_trip: float,
    history: Sequence[float] = (),
    deadline: float = 60.0,
) -> Verdict:
    """The coordinator's side: put the question, time the answer, check the product.

    Args:
        channel: To the node.
        challenge: Fresh; never one that was put before.
        claimed: The rate of the node's descriptor, GFLOP/s.
        round_trip: Shortest round trip to the node, seconds.
        history: Residuals of earlier challenges to this node.
        deadline: Seconds within which the answer must come.

    Raises:
        ProtocolError: The product is not the one whose digest came first.
        PeerLost: The node is gone, or did not answer in time.
    """
    other = _overhead(challenge)
    began = time.perf_counter()
    channel.send(STEP_ASK, _ASK.pack(challenge.seed, challenge.n, _EXACT[challenge.precision]))
    digest = bytes(channel.recv(STEP_DIGEST, size=32, deadline=deadline))
    taken = time.perf_counter() - began - round_trip
    size = 4 * challenge.n**2
    raw = channel.recv(STEP_PRODUCT, size=size, deadline=deadline)
    found = np.frombuffer(raw, dtype="<u4").reshape(challenge.n, challenge.n).astype(np.uint32)
    if product_digest(found) != digest:
        raise ProtocolError(
            "the product is not the one whose digest was sent: it was computed after the clock stopped",
            step=STEP_PRODUCT,
        )
    if found.size and int(found.max()) >= PRIME:
        return Verdict(
            False, taken, 0.0, claimed.value, math.inf, True, 0.0, "the product has impossible entries"
        )
    # At most half is taken off: a node on which drawing is faster than here must not seem fast by that.
    return judge(challenge, found, max(taken - other, taken / 2, 1e-9), claimed, history)


def _overhead(challenge: Challenge) -> float:
    """Seconds that drawing the matrices and hashing a product take here."""
    began = time.perf_counter()
    matrices(challenge)
    product_digest(np.zeros((challenge.n, challenge.n), dtype=np.uint32))
    return time.perf_counter() - began
