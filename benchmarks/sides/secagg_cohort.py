"""A whole cohort of `crypto.secagg` in one process: rounds in which some drop out, and what each side takes."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crypto.kernels.keystream import NONCE, Streams
from crypto.quantisation import FixedPoint, quantise, weighted_mean
from crypto.secagg.coordinator import Coordinator
from crypto.secagg.graph import Assumptions
from crypto.secagg.participant import Participant
from crypto.secagg.protocol import RUN
from crypto.signatures import Authenticator

LARGEST_WEIGHT = 1000
CLIP = 8.0
T = TypeVar("T")


@dataclass
class Spent:
    """CPU seconds of this process and all its threads, by who spent them.

    Args:
        clients: By name.
        server: Of the coordinator.
    """

    clients: dict[str, float] = field(default_factory=dict)
    server: float = 0.0

    def client(self, name: str, work: Callable[..., T], *given: Any, **named: Any) -> T:
        """Let a client work."""
        began = time.process_time()
        done = work(*given, **named)
        self.clients[name] = self.clients.get(name, 0.0) + time.process_time() - began
        return done

    def serve(self, work: Callable[..., T], *given: Any) -> T:
        """Let the coordinator work."""
        began = time.process_time()
        done = work(*given)
        self.server += time.process_time() - began
        return done

    def of(self, names: Iterable[str]) -> float:
        """The median of some clients."""
        return float(np.median([self.clients[name] for name in names]))


@dataclass(frozen=True)
class Round:
    """What a round took.

    Args:
        client: CPU seconds of a client that did not drop out, median.
        server: CPU seconds.
        up, down: Bytes of such a client's messages, its vector among them, median.
        exact: Whether the sum and its mean are those of the vectors that were sent.
    """

    client: float
    server: float
    up: float
    down: float
    exact: bool


class Cohort:
    """Participants, each with an identity, and their coordinator, after they have met.

    Args:
        size: Participants.
        assumptions: About them.

    Attributes:
        met: What meeting took, once in a run.
    """

    def __init__(self, size: int, assumptions: Assumptions) -> None:
        self.met, run = Spent(), secrets.token_bytes(RUN)
        names = [f"p{number}" for number in range(size)]
        own = {name: Ed25519PrivateKey.generate() for name in names}
        public = {name: key.public_key() for name, key in own.items()}

        def verify(name: str, message: bytes, signature: bytes) -> bool:
            try:
                public[name].verify(signature, message)
            except InvalidSignature:
                return False
            return True

        knows = {name: Authenticator(own[name].sign, verify) for name in names}
        self.coordinator = Coordinator(run, assumptions, knows[names[0]])
        self.clients = {
            name: self.met.client(name, Participant, name, run, assumptions, knows[name]) for name in names
        }
        for name, each in self.clients.items():
            self.met.serve(self.coordinator.take_advert, name, self.met.client(name, each.advert))
        for name, roster in self.met.serve(self.coordinator.rosters).items():
            self.met.client(name, self.clients[name].meet, roster)

    @property
    def names(self) -> tuple[str, ...]:
        """By index."""
        return self.coordinator.names

    def round(self, number: int, dropped: int, values: npt.NDArray[np.float32]) -> Round:
        """One round, in which all vectors hold the same values with weights of their own.

        Args:
            number: Of the round.
            dropped: Participants that give no vector after they have shared their seeds.
            values: (P,), within the clip.
        """
        spent, them = Spent(), self.coordinator
        form = FixedPoint(CLIP, len(self.names), LARGEST_WEIGHT)
        up, down = dict.fromkeys(self.names, 0), dict.fromkeys(self.names, 0)
        for name, each in self.clients.items():
            shares = spent.client(name, each.shares, number)
            up[name] += len(shares)
            spent.serve(them.take_shares, name, shares)
        began = spent.serve(them.start, number)
        gone = set(self.names[:dropped])
        weights = np.random.default_rng(number).integers(1, LARGEST_WEIGHT + 1, len(self.names)).tolist()
        plain, vector = np.zeros(len(values) + 1, form.dtype), np.empty(len(values) + 1, form.dtype)
        for name, start in spent.serve(began.starts).items():
            down[name] += len(start)
            spent.client(name, self.clients[name].begin, start)
            if name in gone:
                continue
            spent.client(name, quantise, values, form, weight=weights.pop(), out=vector)
            plain += vector
            message = spent.client(name, self.clients[name].mask, vector)
            up[name] += len(message) + vector.nbytes
            spent.serve(began.take_masked, name, message, vector)
        requests = spent.serve(began.survivors)
        if them.cohort.assumptions.adversary == "active":
            for name, survivors in requests.items():
                down[name] += len(survivors)
                confirmed = spent.client(name, self.clients[name].confirm, survivors)
                up[name] += len(confirmed)
                spent.serve(began.take_confirmation, name, confirmed)
            requests = spent.serve(began.requests)
        for name, request in requests.items():
            down[name] += len(request)
            revealed = spent.client(name, self.clients[name].reveal, request)
            up[name] += len(revealed)
            spent.serve(began.take_revealed, name, revealed)
        total = spent.serve(began.finish)
        mean, weight = spent.serve(weighted_mean, total, form)
        # Above the bound by what a mean of type float32 is rounded by.
        near = np.abs(mean - values).max() <= form.error_bound(weight, len(up) - dropped) + CLIP * 2.0**-24
        left = [name for name in self.names if name not in gone]
        return Round(
            spent.of(left),
            spent.server,
            float(np.median([up[name] for name in left])),
            float(np.median([down[name] for name in left])),
            bool(np.array_equal(total, plain) and near),
        )

    def masks(self, dropped: int) -> int:
        """Streams that the coordinator takes out of a sum when the first so many drop out."""
        near = [self.coordinator.cohort.graph.neighbours(index) for index in range(len(self.names))]
        pairs = sum(other >= dropped for index in range(dropped) for other in near[index])
        return len(self.names) - dropped + pairs


@dataclass(frozen=True)
class Floor:
    """The work that nobody who masks vectors by streams of AES-CTR can leave out; CPU seconds, medians.

    Args:
        quantise: One pass of rounding.
        stream: One stream made and added to a vector, by the kernel of this project.
        together: The same, where several are added to a piece of the vector before the next; of one.
        openssl: One stream made by OpenSSL in pieces of 256 KiB and added by numpy.
        add: One vector added to another.
        mean: One pass from a sum to numbers.
    """

    quantise: float
    stream: float
    together: float
    openssl: float
    add: float
    mean: float


def floor(values: npt.NDArray[np.float32], neighbours: int, repeats: int = 5) -> Floor:
    """Measure it, in this process, on a vector that long."""
    form = FixedPoint(CLIP, 100, LARGEST_WEIGHT)
    vector, other = quantise(values, form)[0], quantise(values, form)[0]
    own = [Streams([os.urandom(16 + NONCE)]) for _ in range(neighbours)]
    all_of_them = Streams([os.urandom(16 + NONCE) for _ in range(neighbours)])

    def one_by_one() -> None:
        for each in own:
            each.add(vector)

    def told() -> None:
        weighted_mean(other, form)

    return Floor(
        _seconds(lambda: quantise(values, form, weight=500, out=vector), repeats),
        _seconds(one_by_one, repeats) / neighbours,
        _seconds(lambda: all_of_them.add(vector), repeats) / neighbours,
        _seconds(lambda: _openssl(vector), repeats),
        _seconds(lambda: np.add(vector, other, out=vector), repeats),
        _seconds(told, repeats),
    )


def _openssl(vector: npt.NDArray[np.uint32]) -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    stream = Cipher(algorithms.AES(os.urandom(16)), modes.CTR(bytes(16))).encryptor()
    zeros, room = bytes(2**18), bytearray(2**18 + 15)
    words = np.frombuffer(room, np.uint32, 2**16)
    for at in range(0, len(vector), 2**16):
        count = min(2**16, len(vector) - at)
        stream.update_into(zeros[: 4 * count], room)
        vector[at : at + count] += words[:count]


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """CPU seconds, median after one that does not count."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return float(np.median(taken))
