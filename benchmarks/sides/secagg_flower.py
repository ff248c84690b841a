"""A round of SecAgg+ with the helpers of Flower's own, put together as its legacy workflow and mod do.

Without messages: what is measured is what each side computes. Keys are made for every round, as Flower's protocol
does. Its masks are no cryptography (seeds are folded to 32 bits); they are what its users get.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

from benchmarks.sides.secagg_cohort import CLIP, LARGEST_WEIGHT, Round, Spent

TARGET, MODULUS = 1 << 22, 1 << 32
"""Flower's own defaults: levels of a quantised value, and the modulus of masks."""

Keys = tuple[bytes, bytes]


@dataclass
class Client:
    """Stages 0 to 3 of Flower's `secaggplus_mod`."""

    nid: int
    threshold: int
    secret: Keys = (b"", b"")
    near: dict[int, Keys] = field(default_factory=dict)
    agreed: dict[int, bytes] = field(default_factory=dict)
    seed: bytes = b""
    seeds: dict[int, bytes] = field(default_factory=dict)
    keys: dict[int, bytes] = field(default_factory=dict)

    def setup(self) -> Keys:
        """Two pairs of keys."""
        (one, public), (two, other) = generate_key_pairs(), generate_key_pairs()
        self.secret = private_key_to_bytes(one), private_key_to_bytes(two)
        return public_key_to_bytes(public), public_key_to_bytes(other)

    def share_keys(self, near: dict[int, Keys]) -> dict[int, bytes]:
        """Shares of the seed and the first key, encrypted to each neighbour."""
        self.near, self.seed = near, os.urandom(32)
        of_seed = create_shares(self.seed, self.threshold, len(near))
        of_key = create_shares(self.secret[0], self.threshold, len(near))
        sent = {}
        for (nid, (_, public)), seed, key in zip(near.items(), of_seed, of_key, strict=True):
            if nid == self.nid:
                self.seeds[nid], self.keys[nid] = seed, key
                continue
            self.agreed[nid] = generate_shared_key(
                bytes_to_private_key(self.secret[1]), bytes_to_public_key(public)
            )
            sent[nid] = encrypt(self.agreed[nid], share_keys_plaintext_concat(self.nid, nid, seed, key))
        return sent

    def mask(self, came: dict[int, bytes], values: npt.NDArray[np.float32], weight: int) -> list[Any]:
        """The masked vector."""
        for nid, sealed in came.items():
            text = decrypt(self.agreed[nid], sealed)
            source, _, self.seeds[nid], self.keys[nid] = share_keys_plaintext_separate(text)
            assert source == nid
        ratio = round(weight / LARGEST_WEIGHT * TARGET)
        vector = quantize(parameters_multiply([values], ratio / TARGET), CLIP, TARGET)
        vector = factor_combine(ratio, vector)
        shapes = get_parameters_shape(vector)
        vector = parameters_addition(vector, pseudo_rand_gen(self.seed, MODULUS, shapes))
        for nid in came:
            shared = generate_shared_key(
                bytes_to_private_key(self.secret[0]), bytes_to_public_key(self.near[nid][0])
            )
            mask = pseudo_rand_gen(shared, MODULUS, shapes)
            combine = parameters_addition if self.nid > nid else parameters_subtraction
            vector = combine(vector, mask)
        return parameters_mod(vector, MODULUS)

    def unmask(self, active: list[int], dead: list[int]) -> dict[int, bytes]:
        """Shares of the seeds of the active, and of the keys of the dead."""
        return {nid: self.seeds[nid] for nid in active} | {nid: self.keys[nid] for nid in dead}


def one_round(size: int, degree: int, threshold: int, dropped: int, values: npt.NDArray[np.float32]) -> Round:
    """A round.

    Args:
        size: Participants.
        degree: Neighbours of each, even, itself not counted.
        threshold: Shares that give a secret.
        dropped: Participants that give no vector after they have shared their keys.
        values: Of all of them.
    """
    spent, order = Spent(), list(range(size))
    random.shuffle(order)
    half, place = degree // 2, {nid: at for at, nid in enumerate(order)}
    near = {
        nid: {order[(place[nid] + step) % size] for step in range(-half, half + 1)} for nid in range(size)
    }
    clients = {nid: Client(nid, threshold) for nid in range(size)}
    public = {nid: spent.client(str(nid), each.setup) for nid, each in clients.items()}
    up = {nid: sum(map(len, public[nid])) for nid in clients}
    down = {nid: sum(len(key) for other in near[nid] for key in public[other]) for nid in clients}
    sealed: dict[int, dict[int, bytes]] = {nid: {} for nid in clients}
    for nid, each in clients.items():
        for to, text in spent.client(str(nid), each.share_keys, {v: public[v] for v in near[nid]}).items():
            sealed[to][nid] = text
            up[nid] += len(text)
            down[to] += len(text)
    alive = [nid for nid in clients if nid >= dropped]
    weights = np.random.default_rng(size).integers(1, LARGEST_WEIGHT + 1, size).tolist()
    total: list[Any] | None = None
    for nid in alive:
        vector = spent.client(str(nid), clients[nid].mask, sealed[nid], values, weights[nid])
        up[nid] += sum(part.nbytes for part in vector)
        total = vector if total is None else spent.serve(parameters_addition, total, vector)
    revealed: dict[int, list[bytes]] = {nid: [] for nid in clients}
    for nid in alive:
        active = [other for other in near[nid] if other >= dropped]
        dead = [other for other in near[nid] if other < dropped]
        for owner, share in spent.client(str(nid), clients[nid].unmask, active, dead).items():
            revealed[owner].append(share)
            up[nid] += len(share)
    assert total is not None
    mean = spent.serve(_unmasked, total, revealed, near, public, dropped)
    return Round(
        spent.of(str(nid) for nid in alive),
        spent.server,
        float(np.median([up[nid] for nid in alive])),
        float(np.median([down[nid] for nid in alive])),
        bool(np.abs(mean - values).max() < CLIP / 1000),
    )


def _unmasked(
    total: list[Any],
    revealed: dict[int, list[bytes]],
    near: dict[int, set[int]],
    public: dict[int, Keys],
    dropped: int,
) -> Any:
    """The mean, as Flower's workflow makes it at the server."""
    total = parameters_mod(total, MODULUS)
    for nid, shares in revealed.items():
        secret = combine_shares(shares)
        if nid >= dropped:
            mask = pseudo_rand_gen(secret, MODULUS, get_parameters_shape(total))
            total = parameters_subtraction(total, mask)
            continue
        for other in near[nid] - {nid}:
            # Flower does this for neighbours that dropped out too, whose masks nobody added; here it is left out.
            if other < dropped:
                continue
            shared = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(public[other][0]))
            mask = pseudo_rand_gen(shared, MODULUS, get_parameters_shape(total))
            combine = parameters_addition if nid > other else parameters_subtraction
            total = combine(total, mask)
    factor, vector = factor_extract(parameters_mod(total, MODULUS))
    (mean,) = dequantize(vector, CLIP, TARGET)
    mean += -(sum(nid >= dropped for nid in revealed) - 1) * CLIP
    mean *= TARGET / factor
    return mean
