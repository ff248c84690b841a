"""The work of one round as owners are asked for it, and how long a node would take for it.

What counts is the rate at which the real job ran. Before it ran for the first time, the rate is derived from the
product of large matrices, of which a model reaches a share; and cryptography, which uses the processor otherwise,
from rates of its own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

from fedcore.errors import DataError
from fedcore.network.descriptor import Descriptor
from fedcore.network.quantity import Quantity, derived
from fedcore.network.signed import digest

Protocol = Literal["none", "secagg+", "threshold", "ckks", "paillier"]


@dataclass(frozen=True)
class Request:
    """The work of one round, as owners are asked for it.

    Args:
        id: Of this request; a fresh one for each, so that an old offer answers no new request.
        job: Its name; `work.<job>` is the rate that was measured for it.
        samples: Rows that the owner trains on in a round, before epochs.
        epochs: Over them.
        model_bytes: Of an update, each way.
        protocol: Under which updates are summed.
        currency: In which the price is wanted, ISO 4217.
        neighbours: With how many others a participant shares masks, for `secagg+`; else 0.
        memory_gb: That the work needs, GB.
        flop_per_sample: Operations for one row, forwards and backwards, where no rate was measured; 0 if not known.
        efficiency: Share of the rate of large matrix products that the model reaches; with `flop_per_sample` only.
    """

    id: str
    job: str
    samples: int
    epochs: int
    model_bytes: int
    protocol: Protocol
    currency: str
    neighbours: int = 0
    memory_gb: float = 1.0
    flop_per_sample: float = 0.0
    efficiency: float = 0.0

    def __post_init__(self) -> None:
        wrong = [
            f"{name} is {value!r}; it must be {must}"
            for name, value, right, must in (
                ("id", self.id, bool(self.id), "a name"),
                ("job", self.job, bool(self.job), "a name"),
                ("samples", self.samples, self.samples > 0, "at least 1"),
                ("epochs", self.epochs, self.epochs > 0, "at least 1"),
                ("model_bytes", self.model_bytes, self.model_bytes > 0, "at least 1"),
                (
                    "protocol",
                    self.protocol,
                    self.protocol in get_args(Protocol),
                    " or ".join(get_args(Protocol)),
                ),
                ("neighbours", self.neighbours, self.neighbours >= 0, "0 or more"),
                ("memory_gb", self.memory_gb, self.memory_gb > 0, "more than 0"),
                ("flop_per_sample", self.flop_per_sample, self.flop_per_sample >= 0, "0 or more"),
                ("efficiency", self.efficiency, 0 <= self.efficiency <= 1, "from 0 to 1"),
            )
            if not right
        ]
        if wrong:
            raise DataError("; ".join(wrong), step="offers")

    @property
    def digest(self) -> str:
        """SHA-256 of it all; an offer names it."""
        return digest(asdict(self))


def predict(request: Request, node: Descriptor, device: str) -> tuple[Quantity, float]:
    """How fast a node trains, and how long its cryptography takes.

    Args:
        request: The work.
        node: With its quantities.
        device: `cpu` or `cuda`.

    Returns:
        Samples per second, and seconds of cryptography in a round. A measured rate has its cryptography in it.

    Raises:
        DataError: There is nothing to predict it from.
    """
    work = node.get(f"work.{request.job}")
    if work is not None:
        return work, 0.0
    gemm = node.get(f"gemm.{device}.fp32")
    if gemm is None or not request.flop_per_sample or not request.efficiency:
        raise DataError(
            f"no rate of {request.job} was measured, and it cannot be derived without gemm.{device}.fp32, "
            "flop_per_sample and efficiency. Cure: `fedcore network probe --run` after the first run",
            party=node.owner,
            step="offers",
        )
    rate = derived(
        gemm.value * 1e9 * request.efficiency / request.flop_per_sample,
        "samples/s",
        f"{request.efficiency:.0%} of gemm.{device}.fp32 over {request.flop_per_sample:g} operations a sample",
        gemm,
    )
    return rate, cryptography_seconds(request, node)


def cryptography_seconds(request: Request, node: Descriptor) -> float:
    """Seconds of a round's cryptography: a mask for each neighbour and oneself, and a key agreement with each."""
    if request.protocol == "none":
        return 0.0
    if request.protocol != "secagg+":
        raise DataError(
            f"what {request.protocol} takes is not derived from a probe; allowed: none and secagg+, or a rate of the job "
            f"that was measured under {request.protocol}. Cure: `fedcore network probe --run`",
            party=node.owner,
            step="offers",
        )
    stream, agree = node.get("cipher.keystream"), node.get("ecc.x25519") or node.get("ecc.ristretto")
    if stream is None or agree is None:
        raise DataError(
            "cipher.keystream and ecc.x25519 are needed for secagg+. Cure: `fedcore network probe`",
            party=node.owner,
            step="offers",
        )
    # An update is quantised to words of 8 bytes, from 4 as it is trained.
    masked = 2 * request.model_bytes * (request.neighbours + 1)
    return masked / (stream.value * 1e9) + request.neighbours / agree.value
