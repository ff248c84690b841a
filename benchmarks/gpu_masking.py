"""Masks, their removal, and noise on the device, beside references and peers; for `benchmarks/gpu.py`."""

from __future__ import annotations

import math
import secrets
from functools import partial

import numpy as np
import torch

from benchmarks import gpu_reference
from benchmarks.gpu_bench import Bench, differing
from benchmarks.gpu_targets import MASKING
from fedcore.learning.kernels import chacha, normal
from fedcore.learning.kernels import masking as masking_kernels
from fedcore.learning.kernels import unmasking as unmasking_kernels

KEY = 44
RESNET = 11_173_962
CLIP = 4.0
SCALES = {32: 2.0**20, 64: 2.0**40}
ODD = (1, 17, 2049)
LARGE = (4099, 1_000_003)
"""Too much for an interpreter."""
STREAMS = (1, 5, 20)
"""Masks of an update: of its own, and one for each neighbour."""
FARTHEST = 2.5
"""Distance of Kolmogorov and Smirnov times the root of the samples; more comes up once in 130 000 times."""


def masking(bench: Bench) -> None:
    """The same words as the reference, and the time that the cipher takes."""
    bench.attempt("ChaCha20", lambda: _stream_right(bench))
    for bits in (32, 64):
        for count in _counts(bench):
            bench.attempt(f"masked {count}, {bits} bits", partial(_masked_right, bench, count, bits))
    if not bench.timing:
        return
    for masks in STREAMS:
        bench.attempt(
            f"masked, {masks} masks: times",
            partial(_masked_times, bench, bench.pick(2**28, 2**26, 3000), masks),
        )
    bench.attempt(
        "masked, a model of ResNet's size: times",
        partial(_masked_times, bench, RESNET // bench.pick(1, 1, 1000)),
    )


def _counts(bench: Bench) -> tuple[int, ...]:
    return ODD + LARGE if bench.cuda else ODD[: bench.pick(3, 3, 2)]


def _keys(count: int) -> list[bytes]:
    return [secrets.token_bytes(KEY) for _ in range(count)]


def _stream_right(bench: Bench) -> None:
    """RFC 8439, section 2.3.2: the first word of the block after the first."""
    key = bytes(range(32)) + bytes.fromhex("000000090000004a00000000")
    state = chacha.states([key], bench.device)[0]
    found = chacha.words(state, 0, 3).view(-1).cpu()
    expected = torch.from_numpy(gpu_reference.stream(key, 48).astype(np.uint32).view(np.int32))
    bench.right("ChaCha20", "3 blocks", differing(found, expected), 0)
    bench.right("ChaCha20", "RFC 8439, 2.3.2", float(int(found[16]) & 0xFFFFFFFF != 0xE4E7F110), 0)


def _numbers(bench: Bench, count: int) -> torch.Tensor:
    source = torch.Generator(device=bench.device).manual_seed(count)
    return torch.randn(count, generator=source, device=bench.device).mul_(2)


def _masked_right(bench: Bench, count: int, bits: int) -> None:
    values = _numbers(bench, count)
    values[0] = -0.0
    rounding, keys = secrets.token_bytes(KEY), _keys(3)
    minus = [False, True, True]
    found = masking_kernels.masked(
        values, clip=CLIP, scale=SCALES[bits], rounding_key=rounding, mask_keys=keys, minus=minus, bits=bits
    )
    plain = values.cpu().numpy()
    expected = gpu_reference.masked(plain, CLIP, SCALES[bits], rounding, keys, minus, bits)
    bench.right("masked", f"{count}, {bits} bits", differing(found.words, torch.from_numpy(expected)), 0)
    clipped = int((np.abs(plain.astype(np.float64)) > CLIP).sum())
    bench.right("masked", f"{count}, {bits} bits: clipped", abs(found.clipped - clipped) + found.strange, 0)


def _masked_times(bench: Bench, count: int, masks: int | None = None) -> None:
    """With `masks` for the target; without, beside torch, which takes its time."""
    peer_too, masks = masks is None, masks or STREAMS[1]
    values = _numbers(bench, count)
    rounding, keys, minus = secrets.token_bytes(KEY), _keys(masks), [each % 2 == 1 for each in range(masks)]
    moved, operations = masking_kernels.floor(count, masks)
    states, signs = masking_kernels.streams([*keys, rounding], [*minus, False], bench.device)

    def ours() -> object:
        return masking_kernels.masked(
            values, clip=CLIP, scale=SCALES[32], rounding_key=rounding, mask_keys=keys, minus=minus
        )

    def peer() -> object:
        return masking_kernels.masked_plain(values, CLIP, SCALES[32], states, signs[:-1])

    share = bench.against(
        "masked",
        f"{count} numbers, {masks} masks",
        ours,
        peer if peer_too else None,
        "torch, the same cipher",
        moved=moved,
        integers=operations,
    )
    if share is not None and not peer_too:
        bench.values[MASKING] = min(share, bench.values.get(MASKING, math.inf))


def unmasking(bench: Bench) -> None:
    """The same means as the reference."""
    for bits in (32, 64):
        for count in _counts(bench):
            bench.attempt(f"unmasked_mean {count}, {bits} bits", partial(_unmasked_right, bench, count, bits))
    if bench.timing:
        bench.attempt("unmasked_mean: times", lambda: _unmasked_times(bench))


def _vectors(bench: Bench, many: int, count: int, bits: int) -> torch.Tensor:
    kind = torch.int32 if bits == 32 else torch.int64
    source = torch.Generator(device=bench.device).manual_seed(count)
    half = 2 ** (bits - 1)
    return torch.randint(-half, half - 1, (many, count), dtype=kind, generator=source, device=bench.device)


def _unmasked_right(bench: Bench, count: int, bits: int) -> None:
    vectors, keys, minus = _vectors(bench, 3, count, bits), _keys(3), [True, False, True]
    factor = 1 / (SCALES[bits] * 70)
    found = unmasking_kernels.unmasked_mean(vectors, mask_keys=keys, minus=minus, factor=factor)
    expected = gpu_reference.unmasked(vectors.cpu().numpy(), keys, minus, factor)
    apart = differing(found.view(torch.int32), torch.from_numpy(expected).view(torch.int32))
    bench.right("unmasked_mean", f"3 x {count}, {bits} bits", apart, 0)


def _unmasked_times(bench: Bench) -> None:
    many, masks, count = 10, 12, bench.pick(2**25, 2**23, 3000)
    vectors, keys, minus = _vectors(bench, many, count, 32), _keys(masks), [True] * masks
    states, signs = masking_kernels.streams(keys, minus, bench.device)
    moved, operations = unmasking_kernels.floor(count, many, masks)
    bench.against(
        "unmasked_mean",
        f"{many} x {count} words, {masks} masks",
        lambda: unmasking_kernels.unmasked_mean(vectors, mask_keys=keys, minus=minus, factor=1e-6),
        lambda: unmasking_kernels.unmasked_plain(vectors, states, signs, 1e-6, torch.float32),
        "torch, the same cipher",
        moved=moved,
        integers=operations,
    )


def noise(bench: Bench) -> None:
    """Numbers that follow from the key as they should and are spread as normal ones are; and what they cost."""
    for count in _counts(bench):
        bench.attempt(f"standard_normal {count}", partial(_noise_right, bench, count))
    bench.attempt("standard_normal: spread", lambda: _noise_spread(bench))
    if bench.timing:
        bench.attempt("standard_normal: times", lambda: _noise_times(bench))


def _noise_right(bench: Bench, count: int) -> None:
    """Beside Box and Muller's transform in float64, of the same words."""
    key = secrets.token_bytes(32)
    found = normal.standard_normal(count, bench.device, key=key).double().cpu().numpy()
    words = gpu_reference.stream(key + bytes(12), 16 * -(-count // 16)).reshape(-1, 16)
    low = (words[:, :8] & 0x7FFFFFFF).astype(np.float64)
    radius = np.sqrt(-2 * np.log((low + 0.5) * 2.0**-31))
    angle = words[:, 8:].view(np.int32) * (np.pi * 2.0**-31)
    expected = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]
    # A radius from a small word has more bits than these words give.
    known = np.tile(low >= normal.SMALL, 2).reshape(-1)[:count]
    apart = np.abs(found - expected)[known].max(initial=0.0) if len(found) == count else math.inf
    bench.right("standard_normal", f"{count}: of its words", float(apart), 2e-5)


def _noise_spread(bench: Bench) -> None:
    count = 2**22 + 1 if bench.cuda else 2**13 + 1
    drawn = normal.standard_normal(count, bench.device).double().cpu()
    again = normal.standard_normal(count, bench.device).double().cpu()
    bench.right("standard_normal", f"{count}: the same twice", float((drawn == again).all()), 0)
    below = torch.special.ndtr(drawn.sort().values)
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    distance = torch.maximum(steps[1:] - below, below - steps[:-1]).max()
    bench.right(
        "standard_normal", f"{count}: Kolmogorov and Smirnov", float(distance) * math.sqrt(count), FARTHEST
    )


def _noise_times(bench: Bench) -> None:
    count = bench.pick(2**28, 2**26, 3000)
    moved, operations = normal.floor(count)
    bench.against(
        "standard_normal",
        f"{count} numbers",
        lambda: normal.standard_normal(count, bench.device),
        lambda: torch.normal(0.0, 1.0, (count,), device=bench.device),
        "torch.normal, from Philox, which is no cipher",
        moved=moved,
        integers=operations,
    )
