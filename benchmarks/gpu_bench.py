"""What the parts of `benchmarks/gpu.py` measure with: a clock, the machine's ceilings, and a place for what they find.

clock      CUDA events around each repetition, the second cache flushed before it, medians; on a CPU a wall clock in the
           same lines, so that they are tested where there is no GPU
ceilings   what this device does, measured here: bytes of a copy, products of matrices, and the additions, exclusive ors
           and rotations that ChaCha20 is made of
floor      the longest of the times that a kernel's bytes, products and whole-number operations take at these ceilings
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
import math
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from benchmarks.gpu_targets import right

Size = Literal["full", "quick", "tiny"]
Work = Callable[[], object]

MIB = 2**20
OUT_OF_TIME = "no time was left for it"
EXACT = 1e-5
"""What a sum in float32 may be apart from one in float64, relative."""
_FLUSH_AT_LEAST = 64 * MIB
_QUEUED = 2_000_000
"""Cycles of the device, about a millisecond."""
QUARTER_OPERATIONS = 12
"""Of a quarter round of ChaCha20: four additions, exclusive ors and rotations each (RFC 8439, section 2.1)."""
BLOCK_OPERATIONS = 80 * QUARTER_OPERATIONS + 16
"""Of a block of 16 words: 20 rounds of four quarter rounds, and the first state added (RFC 8439, section 2.3)."""


@dataclass(frozen=True)
class Ceilings:
    """Rates of a device, each measured.

    Args:
        bytes: Read plus written by a copy, per second.
        bf16, float32: Operations of a matrix product, two to a multiplication and addition, per second; float32 as it is, or
            from three products of TF32, whichever is faster.
        integers: 32-bit additions, exclusive ors and rotations in ChaCha20's mixture, per second; None where Triton is not.
    """

    bytes: float
    bf16: float
    float32: float
    integers: float | None

    def floor(
        self, moved: float, flops: float = 0.0, kind: str = "float32", integers: float = 0.0
    ) -> tuple[float, str]:
        """Seconds that no kernel runs much faster than, and what binds: `bytes`, `products` or `integers`.

        Args:
            moved: Bytes, each input read once and each output written once.
            flops: Of products of matrices.
            kind: Of these products, `float32` or `bf16`.
            integers: Whole-number operations.
        """
        times = {"bytes": moved / self.bytes, "products": flops / getattr(self, kind)}
        if self.integers is not None:
            times["integers"] = integers / self.integers
        binds = max(times, key=lambda each: times[each])
        return times[binds], binds


@dataclass
class Bench:
    """Where a part measures, and what it found.

    Args:
        device: To measure on.
        size: Of the work: `full`, `quick`, or `tiny` for tests.
        timing: Whether times are taken; on a CPU they are not, for they would say nothing of a GPU.
        ends: `time.monotonic()` after which no further item begins.
        ceilings: Of the device; None before they are measured.
        figures, values, absent: As in `benchmarks.common.Report`; `values` are the targets', by name.
        failed: Items that raised.
        keep: Called after each item, so that what is found outlasts a process that is stopped.
    """

    device: torch.device
    size: Size
    timing: bool
    ends: float
    ceilings: Ceilings | None = None
    figures: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    keep: Callable[[Bench], None] | None = None
    _flush: torch.Tensor | None = None

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def pick(self, full: Any, quick: Any, tiny: Any) -> Any:
        """The one of this bench's size."""
        return {"full": full, "quick": quick, "tiny": tiny}[self.size]

    def attempt(self, name: str, work: Work) -> None:
        """Do one item; a failure is kept, told, and the next item goes on."""
        if self.out_of_time():
            self.absent[name] = OUT_OF_TIME
            return
        try:
            work()
            if self.cuda:
                torch.cuda.synchronize()
        except Exception:
            self.absent[name] = traceback.format_exc(limit=-6)
            self.failed.append(name)
        finally:
            self.done()

    def out_of_time(self) -> bool:
        """Whether nothing new may begin."""
        return time.monotonic() > self.ends

    def done(self) -> None:
        """An item is: what it found is kept, and memory that nothing holds given back to the device."""
        if self.keep is not None:
            self.keep(self)
        if not self.cuda:
            return
        gc.collect()
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            # After an illegal access no call on the device goes through; the next items say so themselves.
            self.absent["the device"] = str(error).splitlines()[0]

    def timed(
        self, work: Work, *, seconds: float = 0.4, least: int = 5, most: int = 50, queued: bool = False
    ) -> float:
        """Median seconds of `work`, begun with cold caches.

        Args:
            work: Done twice at least before anything is counted.
            seconds: To spend, about.
            least, most: Repetitions; two where `least` would take four times as long as `seconds`.
            queued: The device waits a millisecond first, so that what the host takes to launch a kernel is not counted.
        """
        work()
        self._synchronize()
        began = time.perf_counter()
        work()
        self._synchronize()
        once = max(time.perf_counter() - began, 1e-6)
        if self.size == "tiny" or once * least > 4 * seconds:
            least = most = 2
        stamps = []
        for _ in range(int(min(most, max(least, seconds / once)))):
            self._flushed()
            if queued and self.cuda:
                torch.cuda._sleep(_QUEUED)
            begin = self._stamp()
            work()
            stamps.append((begin, self._stamp()))
        self._synchronize()
        return statistics.median(_between(begin, end) for begin, end in stamps)

    def _synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def _flushed(self) -> None:
        """Write over more than the second cache holds, so that `work` finds nothing of its own there."""
        if self._flush is None:
            size = 1024
            if self.cuda:
                held = getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 0)
                size = max(_FLUSH_AT_LEAST, 2 * held)
            self._flush = torch.empty(size, dtype=torch.uint8, device=self.device)
        self._flush.zero_()

    def _stamp(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def peak(self, work: Work) -> float | None:
        """MiB that are allocated at most during `work`, above what was before; None on a CPU."""
        if not self.cuda:
            work()
            return None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before) / MIB

    def against(
        self,
        kernel: str,
        sizes: str,
        ours: Work,
        peer: Work | None,
        peer_name: str = "",
        *,
        moved: float,
        flops: float = 0.0,
        kind: str = "float32",
        integers: float = 0.0,
    ) -> float | None:
        """Time a kernel against its floor and its peer, and keep the row.

        Args:
            kernel, sizes: For the row.
            ours, peer: Calls on the same inputs.
            peer_name: What the peer is.
            moved, flops, kind, integers: As `Ceilings.floor`.

        Returns:
            The floor over the time, 0 to about 1; None where no times are taken.
        """
        if not self.timing or self.ceilings is None:
            return None
        floor, binds = self.ceilings.floor(moved, flops, kind, integers)
        taken = self.timed(ours, queued=True)
        row: dict[str, Any] = {
            "part": "kernels: times",
            "kernel": kernel,
            "sizes": sizes,
            "ms": 1e3 * taken,
            "floor ms": 1e3 * floor,
            "floor of": binds,
            "floor over time": floor / taken,
        }
        if peer is not None:
            row |= {"peer": peer_name, "peer ms": 1e3 * self.timed(peer, queued=True)}
            row["peer over kernel"] = row["peer ms"] / row["ms"]
        self.figures.append(row)
        return floor / taken

    def right(self, kernel: str, sizes: str, apart: float, allowed: float) -> None:
        """Keep the row of a comparison, and the worst of the kernel's as the target's value.

        Args:
            kernel: Its target is `KERNEL: apart from the reference, of what is allowed`.
            sizes: Of this comparison.
            apart: As the comparison says; NaN never passes.
            allowed: Of this comparison: 0 where the same bits are due.
        """
        share = apart / allowed if allowed else (0.0 if apart == 0 else math.inf)
        share = math.inf if math.isnan(share) else share
        self.figures.append(
            {
                "part": "kernels: right",
                "kernel": kernel,
                "sizes": sizes,
                "apart": finite(apart),
                "allowed": allowed,
            }
        )
        name = right(kernel)
        self.values[name] = max(self.values.get(name, 0.0), share)

    def told(self) -> dict[str, Any]:
        """For JSON, from one process to another."""
        return {
            "figures": self.figures,
            # JSON has no infinity; a million times what is allowed is as wrong.
            "values": {name: finite(value) for name, value in self.values.items()},
            "absent": self.absent,
            "failed": self.failed,
            "size": self.size,
            "timing": self.timing,
            "ceilings": asdict(self.ceilings) if self.ceilings else None,
        }


def finite(value: float) -> float:
    """The value, or a million where it is no number."""
    return value if math.isfinite(value) else 1e6


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is expected, in float64; infinite where shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    if not found.numel():
        return 0.0
    wide = expected.detach().double().cpu()
    below = float(wide.norm())
    apart = float((found.detach().double().cpu() - wide).norm())
    return apart / below if below else apart


def differing(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How many elements are not the same bits; infinite where shapes or types differ."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return math.inf
    return float((found.cpu() != expected.cpu()).sum())


def _between(begin: Any, end: Any) -> float:
    return float(end - begin) if isinstance(begin, float) else float(begin.elapsed_time(end)) / 1e3


def has_triton() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def facts(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "triton": _version("triton"),
        "device": str(device),
    }
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found |= {
            "name": about.name,
            "compute capability": f"{about.major}.{about.minor}",
            "multiprocessors": about.multi_processor_count,
            "memory GiB": round(about.total_memory / 2**30, 1),
            "L2 MiB": round(getattr(about, "L2_cache_size", 0) / MIB, 1),
            "CUDA": torch.version.cuda,
        }
    return found


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Log(logging.Handler):
    """Keeps what fedcore logs: which kernels do not run, which models go the general way."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.messages.append(f"{record.name}: {record.getMessage()}")

    @classmethod
    @contextlib.contextmanager
    def listening(cls) -> Iterator[list[str]]:
        """The messages, as they come."""
        made, own = cls(), logging.getLogger("fedcore")
        before = own.level
        own.addHandler(made)
        own.setLevel(logging.INFO)
        try:
            yield made.messages
        finally:
            own.removeHandler(made)
            own.setLevel(before)
