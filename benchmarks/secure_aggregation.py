"""Secure aggregation and homomorphic encryption: what each protocol costs, beside what others have, and the floor.

    python benchmarks/secure_aggregation.py --participants 100 --parameters 1000000 --dropout 0.1 --json
    python benchmarks/secure_aggregation.py --parts masks round

Parts, each of which can be measured alone; N participants, P parameters, a share of R dropping out:

    masks        secagg+, N x P, beside Flower's SecAgg+ helpers and the floor
    growth       secagg+, cohorts from N/2 to 10 N x P/10: what a participant costs
    memory       secagg+, 10 P: bytes that a participant sends and the memory of its process
    ckks         P values beside plain TenSEAL
    threshold    P values beside the same
    paillier     P/100 values beside phe one by one
    round        training rounds of the digits CNN with and without secagg+
    lightsecagg  N x P, R and 3 R dropping out, beside secagg+: why fedcore does not have it

Times of the parts but `round` are CPU seconds of one process. Both sides of a ratio are measured in turns in that
process. Whoever drops out has shared its secrets and gives no vector, which is what costs a coordinator most.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks import secure_coded, secure_encryption, secure_masks, secure_round
from benchmarks.common import Figure, Report, Target, machine, parser, progress
from benchmarks.measure import use_cores

WITH = ("tenseal", "phe", "gmpy2", "cryptography", "numba")
MEMORY_PARTICIPANTS = 10


def main(arguments: list[str] | None = None) -> Report:
    """Measure and tell."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--participants", type=_cohort, default=100)
    options.add_argument("--parameters", type=_length, default=1_000_000, help="of each participant's vector")
    options.add_argument("--dropout", type=_share, default=0.1, help="share that drops out of a round")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    given = options.parse_args(arguments)
    given.cores = use_cores(given.cores)
    report = Report(
        "secure_aggregation",
        {
            "participants": given.participants,
            "parameters": given.parameters,
            "dropout": given.dropout,
            "assumed": f"{secure_masks.CORRUPT:.0%} collude, the share above drops out, coordinator active, 2^-40",
            "client ms, server ms": "CPU; of a participant that stays, median, and of the coordinator in all; a vector "
            "encrypted and written, and one read and added",
            "opening ms": "CPU; of all holders of the key and the coordinator in all",
            "bytes a value": "4 is the quantised model; of a participant, all messages of a round",
            "error": "largest, in clips (ckks, TenSEAL) or bounds (paillier, phe); threshold: wrong sums",
            "floor": "a stream of AES-CTR for each neighbour added to the vector, and a pass of rounding; server: a "
            "stream for each mask in the sum, an addition for each vector, and a pass to numbers. Targets take the "
            "one whose streams are added one by one by the kernel of this project",
            "Flower": "helpers of Flower's legacy workflow, whole cohort, keys for each round, same neighbours and threshold",
            "TenSEAL": f"public-key CKKSVector in chunks, {secure_encryption.DEGREE}, {secure_encryption.CHAIN}",
            "phe": f"over {secure_encryption.PHE_SAMPLE} values, scaled",
            "threshold": f"{secure_encryption.HOLDERS} hold the key, {secure_encryption.THRESHOLD} open; 24 bits a value",
            "memory": "of a participant's process above what it held before the model came, the model and the update "
            "themselves counted; the larger of two rounds",
            "round": "median of all rounds but the first of each run; training and evaluation protected",
            "LightSecAgg": "coded by number-theoretic transform, AES-GCM between participants; U = N - drop-outs",
            "repeats": given.repeats,
            "packages": {name: _version(name) for name in WITH},
            "machine": machine(),
        },
    )
    # What two parts share is measured once.
    for measure in dict.fromkeys(PARTS[part] for part in PARTS if part in given.parts):
        measure(given, report)
    report.tell(given.json)
    return report


def _memory(given: Any, report: Report) -> None:
    """A participant's bytes and memory through the layers of the product."""
    from benchmarks.sides.secagg_apart import measure_participant

    count = 10 * given.parameters
    progress(f"memory: {count:,} parameters", given.json)
    model, found = 4 * count, {}
    try:
        found = measure_participant(MEMORY_PARTICIPANTS, count)
    except OSError as error:
        report.absent["memory of a participant"] = str(error)
    else:
        figure: Figure = {
            "neighbours": MEMORY_PARTICIPANTS - 1,
            "bytes up a value": found["sent"] / count,
            "bytes down a value": found["got"] / count,
            "memory MiB": found["peak"],
            "model and update alone MiB": found["trained"],
        }
        side = "fedcore, a participant's process"
        report.figures.append(secure_masks.row("memory", side, MEMORY_PARTICIPANTS, count, 0, **figure))
    sent, peak = found.get("sent"), found.get("peak")
    name = f"secagg+, {count:,} parameters"
    report.targets += [
        Target(f"{name}: bytes sent over the quantised model", sent and sent / model, at_most=1.05),
        Target(f"{name}: peak memory over the model", peak and peak * 2**20 / model, at_most=4),
    ]


def _encrypted(given: Any, report: Report) -> None:
    """What is compared with TenSEAL."""
    secure_encryption.vectors(given, report, [part for part in ("ckks", "threshold") if part in given.parts])


PARTS: dict[str, Callable[[Any, Report], None]] = {
    "masks": secure_masks.masks,
    "growth": secure_masks.growth,
    "memory": _memory,
    "ckks": _encrypted,
    "threshold": _encrypted,
    "paillier": secure_encryption.paillier,
    "round": secure_round.training_round,
    "lightsecagg": secure_coded.coded,
}


def _cohort(text: str) -> int:
    return _at_least(int(text), 5)


def _length(text: str) -> int:
    return _at_least(int(text), 100)


def _at_least(number: int, least: int) -> int:
    if number < least:
        raise argparse.ArgumentTypeError(f"{number} is below {least}")
    return number


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share < 0.34:
        raise argparse.ArgumentTypeError(f"{share} is not a share from 0 to 0.33")
    return share


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
