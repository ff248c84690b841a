"""Sums under encryption: CKKS and the threshold scheme beside plain TenSEAL, Paillier beside phe one by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.common import Figure, Report, Target, progress, ratio
from benchmarks.measure import alternate, middle
from benchmarks.secure_masks import row

TENSEAL, PHE = "plain TenSEAL", "phe, one by one"
DEGREE, CHAIN, SCALE = 8192, [60, 40, 40, 60], 2**40
"""Of the plain TenSEAL way; half of the degree are the numbers of a ciphertext."""
CLIP = 4.0
HOLDERS, THRESHOLD = 10, 7
LIMIT = 2**23 - 1
"""Of the whole numbers under the threshold scheme."""
PHE_SAMPLE = 100
BOUND, FRACTION = 1000.0, 20
"""Of the numbers under Paillier: the largest, and binary digits behind the point."""

Measured = dict[str, Any]
T = TypeVar("T")


class _Laps:
    """CPU seconds by what was done."""

    def __init__(self) -> None:
        self.taken: Measured = {}

    def __call__(self, what: str, work: Callable[..., T], *given: Any, **named: Any) -> T:
        began = time.process_time()
        done = work(*given, **named)
        self.taken[what] = self.taken.get(what, 0.0) + time.process_time() - began
        return done


def vectors(given: Any, report: Report, parts: list[str]) -> None:
    """`ckks` and `threshold`, as far as they are among the parts, beside the same measurement of TenSEAL."""
    count = given.parameters
    random = np.random.default_rng(0)
    pair = [random.standard_normal(count).clip(-CLIP, CLIP).astype(np.float32) for _ in range(2)]
    sides: dict[str, Callable[[Any, list[npt.NDArray[np.float32]]], Measured]] = {
        "ckks": _ckks,
        "threshold": _threshold,
    }
    chosen: dict[str, Any] = {part: sides[part] for part in parts}
    try:
        import tenseal  # noqa: F401

        chosen[TENSEAL] = _tenseal
    except ImportError:
        report.absent["TenSEAL"] = "the package tenseal is not installed; pip install 'fedcore[ckks]'"
        chosen.pop("ckks", None)

    def side(name: str) -> Callable[[int], Measured]:
        def run(repeat: int) -> Measured:
            progress(f"{name}: {count:,} values, repeat {repeat + 1}", given.json)
            found: Measured = chosen[name](given, pair)
            return found

        return run

    for run in chosen.values():
        # Loads kernels and libraries, once in a process.
        run(given, [values[:1000] for values in pair])
    measured = {
        name: _median(each)
        for name, each in alternate({name: side(name) for name in chosen}, given.repeats).items()
    }
    plain = measured.get(TENSEAL, {})
    for part in parts:
        mine = measured.get(part, {})
        for name, found in ((f"fedcore, {part}", mine), (TENSEAL, plain)):
            if found:
                report.figures.append(_row(part, name, given.participants, count, found))
        report.targets += (_ckks_targets if part == "ckks" else _threshold_targets)(count, mine, plain)


def _median(repeats: list[Measured]) -> Measured:
    return {what: middle([each[what] for each in repeats]) for what in repeats[0]}


def _row(part: str, side: str, participants: int, count: int, found: Measured) -> Figure:
    """What a side took for each: client encrypts and writes, coordinator reads and adds, who can opens."""
    return row(
        part,
        side,
        participants,
        count,
        0,
        **{
            "client ms": (found["encrypt"] + found["write"]) * 1e3,
            "of it encrypting ms": found["encrypt"] * 1e3,
            "server ms": found["add"] * 1e3,
            "opening ms": found["open"] * 1e3,
            "bytes up a value": found["up"] / count,
            "bytes down a value": found["down"] / count,
            "error": found["error"],
        },
    )


def _ckks_targets(count: int, mine: Measured, plain: Measured) -> list[Target]:
    def both(found: Measured, *what: str) -> float | None:
        return sum(found[each] for each in what) if found else None

    name = f"ckks, {count:,}"
    client, rest = ("encrypt", "write"), ("add", "open")
    return [
        Target(f"{name}: bytes sent over plain TenSEAL", ratio(mine.get("up"), plain.get("up")), at_most=0.5),
        Target(
            f"{name}: time to encrypt and write over plain TenSEAL",
            ratio(both(mine, *client), both(plain, *client)),
            at_most=0.6,
        ),
        Target(
            f"{name}: time of all steps over plain TenSEAL",
            ratio(both(mine, *client, *rest), both(plain, *client, *rest)),
            at_most=0.6,
        ),
        Target(f"{name}: error of a mean, in clips", mine.get("error"), at_most=1e-4),
    ]


def _threshold_targets(count: int, mine: Measured, plain: Measured) -> list[Target]:
    name = f"threshold, {count:,}"
    return [
        Target(
            f"{name}: encrypting, times faster than plain TenSEAL",
            ratio(plain.get("encrypt"), mine.get("encrypt")),
            at_least=10,
        ),
        Target(f"{name}: bytes a value sent", ratio(mine.get("up"), count), at_most=20),
        Target(f"{name}: sums that are not exact", mine.get("error"), at_most=0),
    ]


def _tenseal(given: Any, pair: list[npt.NDArray[np.float32]]) -> Measured:
    """A public-key `CKKSVector` of each chunk, as TenSEAL's own examples do; two participants."""
    import tenseal

    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, DEGREE, -1, CHAIN, n_threads=1)
    context.global_scale = SCALE
    laps, sent = _Laps(), []
    for values in pair:
        chunks = [values[at : at + DEGREE // 2].tolist() for at in range(0, len(values), DEGREE // 2)]
        made = laps("encrypt", lambda chunks=chunks: [tenseal.ckks_vector(context, each) for each in chunks])
        sent.append(laps("write", lambda made=made: [each.serialize() for each in made]))

    def read(raw: list[bytes]) -> list[Any]:
        return [tenseal.ckks_vector_from(context, each) for each in raw]

    total = laps("add", read, sent[0])
    total = laps("add", lambda: [one + other for one, other in zip(total, read(sent[1]), strict=True)])
    down = [each.serialize() for each in total]
    opened = np.concatenate(laps("open", lambda: [each.decrypt() for each in read(down)]))
    return {
        **{what: laps.taken[what] / 2 for what in ("encrypt", "write", "add")},
        "open": laps.taken["open"],
        "up": sum(map(len, sent[0])),
        "down": sum(map(len, down)),
        "error": _error(opened / 2, pair),
    }


def _error(mean: npt.NDArray[np.float64], pair: list[npt.NDArray[np.float32]]) -> float:
    """Of a mean of both vectors, in clips."""
    true = np.mean(pair, axis=0, dtype=np.float64)
    return float(np.abs(mean - true).max() / CLIP)


def _ckks(given: Any, pair: list[npt.NDArray[np.float32]]) -> Measured:
    """`crypto.ckks`; two participants, with parameters for a whole cohort."""
    from crypto.ckks import vectors as ckks
    from crypto.ckks.keys import new_key
    from crypto.ckks.parameters import Parameters

    form, laps = Parameters(given.participants), _Laps()
    key, sent = new_key(form.ring), []
    for values in pair:
        numbers = laps("encrypt", ckks.whole_numbers, values, CLIP, form)
        sent.append(laps("encrypt", ckks.encrypt, key, numbers, form))
    total = ckks.Sum(key.public, form, len(pair[0]))
    for raw in sent:
        laps("add", total.add, raw, "add")
    down = total.to_bytes()
    opened = laps("open", ckks.decrypt, key, form, down, len(pair[0]), least=2, step="open")
    mean = laps("open", ckks.means, opened, CLIP, form)
    return {
        "encrypt": laps.taken["encrypt"] / 2,
        "write": 0.0,
        "add": laps.taken["add"] / 2,
        "open": laps.taken["open"],
        "up": len(sent[0]),
        "down": len(down),
        "error": _error(mean, pair),
    }


def _threshold(given: Any, pair: list[npt.NDArray[np.float32]]) -> Measured:
    """`crypto.rlwe` with a key that ten hold and seven open; two participants of a whole cohort."""
    from crypto.rlwe import decryption, encryption, keys, layout, messages

    setup = keys.Setup(bytes(16), HOLDERS, THRESHOLD, max(given.participants, 2))
    made = [keys.new_share(setup, index) for index in range(1, HOLDERS + 1)]
    parts = [part for _, part in made]
    key = keys.public_key(setup, parts, {part.index: keys.commitment(part) for part in parts})
    dealt = [keys.deal(share) for share, _ in made]
    shares = [keys.combine(setup, j + 1, [each[j] for each in dealt]) for j in range(HOLDERS)]
    plan = layout.layout(len(pair[0]), LIMIT, setup.contributors)
    context, laps = encryption.Context(key, plan, b"round 1"), _Laps()
    whole = [np.rint(values * np.float32(LIMIT / CLIP / 2)).astype(np.int64) for values in pair]
    sent = []
    for numbers in whole:
        ciphertext = laps("encrypt", encryption.encrypt, context, numbers)
        sent.append(laps("write", messages.write_ciphertext, ciphertext))
    total = laps(
        "add", lambda: encryption.add(context, [messages.read_ciphertext(raw, context) for raw in sent])
    )
    active = tuple(range(1, THRESHOLD + 1))
    asked = decryption.request(context, decryption.key_part(total), active)
    down = messages.write_request(asked)
    partial = [
        laps(
            "open",
            decryption.partial_decryption,
            shares[index - 1],
            context,
            asked,
            decryption.Answers(),
        )
        for index in active
    ]
    opened = laps("open", decryption.decrypt, context, total, asked, partial)
    return {
        "encrypt": laps.taken["encrypt"] / 2,
        "write": laps.taken["write"] / 2,
        "add": laps.taken["add"] / 2,
        "open": laps.taken["open"],
        "up": len(sent[0]),
        "down": len(down),
        "error": float(np.count_nonzero(opened != whole[0] + whole[1])),
    }


def paillier(given: Any, report: Report) -> None:
    """`crypto.paillier` beside phe."""
    count = max(given.parameters // 100, 2)
    try:
        from crypto.paillier import keys

        progress("paillier: making a key", given.json)
        owner = keys.new_owner()
    except ModuleNotFoundError as error:
        report.absent["Paillier"] = str(error)
        report.targets += _paillier_targets(count, {}, {})
        return
    values = np.random.default_rng(0).uniform(-BOUND, BOUND, count)
    sides: dict[str, Callable[[int], Measured]] = {
        "fedcore": lambda _: _packed(owner, values, given.participants)
    }
    try:
        import phe  # noqa: F401

        sides[PHE] = lambda _: _one_by_one(owner, values)
    except ImportError:
        report.absent["phe"] = "the package phe is not installed; pip install phe"
    progress(f"paillier: {count:,} values", given.json)
    measured = {name: _median(each) for name, each in alternate(sides, given.repeats).items()}
    mine, other = measured["fedcore"], measured.get(PHE, {})
    for name, found in (("fedcore, paillier", mine), (PHE, other)):
        if found:
            report.figures.append(_row("paillier", name, given.participants, count, found))
    report.targets += _paillier_targets(count, mine, other)


def _paillier_targets(count: int, mine: Measured, other: Measured) -> list[Target]:
    def whole(found: Measured) -> float | None:
        return found["encrypt"] + found["write"] + found["add"] + found["open"] if found else None

    name = f"paillier, {count:,} values, 3072 bits"
    return [
        Target(
            f"{name}: encrypting, times faster than phe one by one",
            ratio(other.get("encrypt"), mine.get("encrypt")),
            at_least=30,
        ),
        Target(
            f"{name}: all steps, times faster than phe one by one",
            ratio(whole(other), whole(mine)),
            at_least=30,
        ),
    ]


def _packed(owner: Any, values: npt.NDArray[np.float64], cohort: int) -> Measured:
    """Encrypting counts the table of powers, which a participant makes once for a key."""
    from crypto.paillier import vectors as packed
    from crypto.paillier.noise import Encryptor
    from crypto.paillier.packing import Packing, whole_numbers

    form, laps = Packing(BOUND, FRACTION, max(cohort, 2)), _Laps()
    encryptor = laps("encrypt", Encryptor, owner.public)
    batch = laps("encrypt", lambda: packed.encrypt(encryptor, whole_numbers(values, form), form))
    raw = laps("write", batch.to_bytes, owner.public)
    came = [laps("add", packed.encrypted_from, raw, len(values), owner.public, form, "add") for _ in range(2)]
    total = laps("add", packed.add, owner.public, form, came)
    opened = laps("open", lambda: packed.decrypt(owner, form, total, least=2, step="open").sums())
    return {
        **{what: laps.taken[what] for what in ("encrypt", "write", "open")},
        "add": laps.taken["add"] / 2,
        "up": len(raw),
        "down": len(total.to_bytes(owner.public)),
        "error": float(np.abs(opened / 2 - values).max() / BOUND),
    }


def _one_by_one(owner: Any, values: npt.NDArray[np.float64]) -> Measured:
    """phe under the same key, over a sample of the values, scaled to all."""
    import phe

    public = phe.PaillierPublicKey(owner.public.n)
    private = phe.PaillierPrivateKey(public, owner.private.p, owner.private.q)
    sample, laps = [float(value) for value in values[:PHE_SAMPLE]], _Laps()
    made = laps("encrypt", lambda: [public.encrypt(value) for value in sample])
    total = laps("add", lambda: [each + each for each in made])
    opened = laps("open", lambda: [private.decrypt(each) for each in total])
    times = len(values) / len(sample)
    size = owner.public.bits // 4 * len(values)
    return {
        **{what: laps.taken[what] * times for what in ("encrypt", "add", "open")},
        "write": 0.0,
        "up": size,
        "down": size,
        "error": float(np.abs(np.array(opened) / 2 - np.array(sample)).max() / BOUND),
    }
