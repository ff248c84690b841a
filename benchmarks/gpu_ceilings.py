"""The ceilings of a device, for `benchmarks/gpu.py`: a copy, products of matrices, and the operations of ChaCha20.

The last is quarter rounds on words that stay in registers, 16 words to a thread, as a block has them, with nothing read and
one word of each thread written. It is what the cipher could do were there nothing else to do.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from benchmarks.gpu_bench import QUARTER_OPERATIONS, Bench, Ceilings, differing, has_triton

_THREADS = 256


def ceilings(bench: Bench) -> None:
    """Measure them."""
    if not bench.timing:
        bench.attempt("whole-number operations", lambda: _rounds_right(bench))
        return
    copied = _copy(bench)
    n = bench.pick(8192, 4096, 32)
    half = _product(bench, n, torch.bfloat16)
    exact = _product(bench, n // 2, torch.float32)
    third = _product(bench, n, torch.float32, tf32=True) / 3
    bench.ceilings = Ceilings(copied, half, max(exact, third), None)
    bench.attempt("whole-number operations", lambda: _integers(bench))
    told: dict[str, Any] = {
        "part": "ceilings of the device",
        "copy GB/s": copied / 1e9,
        "bf16 TFLOP/s": half / 1e12,
        "float32 TFLOP/s": exact / 1e12,
        "three of TF32, TFLOP/s": third / 1e12,
    }
    if bench.ceilings.integers is not None:
        told["ChaCha20's operations, T/s"] = bench.ceilings.integers / 1e12
    bench.figures.append(told)


def _copy(bench: Bench) -> float:
    moved = bench.pick(2**31, 2**29, 2**16)
    source = torch.randint(-(2**31), 2**31 - 1, (moved // 4,), dtype=torch.int32, device=bench.device)
    target = torch.empty_like(source)
    return 2 * moved / bench.timed(lambda: target.copy_(source))


def _product(bench: Bench, n: int, dtype: torch.dtype, tf32: bool = False) -> float:
    # Not zeros: products of zeros take less power and run faster than those of data.
    a = torch.randn(n, n, device=bench.device).to(dtype)
    b = torch.randn(n, n, device=bench.device).to(dtype)
    out = torch.empty_like(a)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        return 2 * n**3 / bench.timed(lambda: torch.mm(a, b, out=out))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _integers(bench: Bench) -> None:
    _rounds_right(bench)
    if bench.ceilings is None or not bench.cuda or not has_triton():
        return
    programs = 32 * torch.cuda.get_device_properties(bench.device).multi_processor_count
    rounds = bench.pick(512, 256, 2)
    out = torch.empty(programs * _THREADS, dtype=torch.int32, device=bench.device)
    kernel = _kernel()

    def work() -> None:
        kernel[(programs,)](out, ROUNDS=rounds, BLOCK=_THREADS, num_warps=_THREADS // 32)

    operations = out.numel() * rounds * 4 * QUARTER_OPERATIONS
    rate = operations / bench.timed(work)
    bench.ceilings = Ceilings(bench.ceilings.bytes, bench.ceilings.bf16, bench.ceilings.float32, rate)


def _rounds_right(bench: Bench) -> None:
    """The kernel that is timed does what it says: the compiler left nothing out."""
    if not has_triton() or not (bench.cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        bench.absent["whole-number operations"] = "they take Triton, and a GPU or Triton's interpreter"
        return
    out = torch.zeros(_THREADS, dtype=torch.int32, device=bench.device)
    _kernel()[(1,)](out, ROUNDS=3, BLOCK=_THREADS, num_warps=_THREADS // 32)
    bench.right("quarter rounds", "256 threads, 3 rounds", differing(out, _plain(_THREADS, 3)), 0)


def _plain(threads: int, rounds: int) -> torch.Tensor:
    """What the kernel writes, with whole numbers of 64 bits cut to 32."""
    mask = 0xFFFFFFFF
    start = torch.arange(threads, dtype=torch.int64)
    words = [(start * (2 * k + 1) + 0x61707865 * (k + 1)) & mask for k in range(16)]

    def rotated(word: torch.Tensor, by: int) -> torch.Tensor:
        return ((word << by) | (word >> (32 - by))) & mask

    for _ in range(rounds):
        for column in range(4):
            a, b, c, d = (words[column + 4 * row] for row in range(4))
            a = (a + b) & mask
            d = rotated(d ^ a, 16)
            c = (c + d) & mask
            b = rotated(b ^ c, 12)
            a = (a + b) & mask
            d = rotated(d ^ a, 8)
            c = (c + d) & mask
            b = rotated(b ^ c, 7)
            for row, word in enumerate((a, b, c, d)):
                words[column + 4 * row] = word
    total = words[0]
    for word in words[1:]:
        total = total ^ word
    return torch.where(total >= 2**31, total - 2**32, total).to(torch.int32)


_made: list[Any] = []


def _kernel() -> Any:
    """The kernel; made at first use, since Triton is not everywhere."""
    if not _made:
        from benchmarks.gpu_rounds import rounds_only

        _made.append(rounds_only)
    return _made[0]
