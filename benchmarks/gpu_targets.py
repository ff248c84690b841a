"""What `benchmarks/gpu.py` runs part by part, and the bounds that its figures must keep; plain names, nothing imported."""

from __future__ import annotations

from dataclasses import dataclass

PARTICIPANTS = 512
STEPS = ("ResNet-18, 32 x 32", "ResNet-18, 224 x 224", "transformer of 6 layers")
GRADIENTS = ("digits CNN", "MLP", "transformer of 2 layers", "ResNet-18")
COHORT = f"{PARTICIPANTS} participants of the digits CNN: one by one over together"
MASKING = "masking and quantising: share of the binding floor"
IMAGING = "imaging, steps and update only: with record-level privacy and masks over without"
ON_A_CPU = "no times are taken on a CPU: they say nothing of a GPU"


def right(kernel: str) -> str:
    """Whether a kernel gives what its reference gives."""
    return f"{kernel}: apart from the reference, of what is allowed"


def over_plain(name: str) -> str:
    """What privacy costs."""
    return f"{name}: private step over plain step"


def opacus_over(name: str) -> str:
    """What others take for the same."""
    return f"{name}: Opacus in its fastest mode over fedcore"


def memory_over(name: str) -> str:
    """What it takes of the device's memory."""
    return f"{name}: memory of fedcore over that of Opacus in its fastest mode"


@dataclass(frozen=True)
class Part:
    """A part of the benchmark, in a process of its own: what one kernel breaks on the device, the next does not see.

    Args:
        module, function: What does it, called with a `Bench` and `arguments`.
        seconds: It gets at most; a limit, not what it takes.
        kernels: That are compared with a reference here.
        bounds: Of its times and memory, name to `at_least` or `at_most`.
        arguments: More for the function.
        interpreted: Small enough for Triton's interpreter where there is no GPU; plain torch else.
    """

    module: str
    function: str
    seconds: float
    kernels: tuple[str, ...] = ()
    bounds: tuple[tuple[str, str, float], ...] = ()
    arguments: tuple[str, ...] = ()
    interpreted: bool = True


def _steps(name: str) -> tuple[tuple[str, str, float], ...]:
    return (
        (over_plain(name), "at_most", 1.5),
        (opacus_over(name), "at_least", 2.0),
        (memory_over(name), "at_most", 1.0),
    )


def _training(name: str) -> Part:
    return Part("gpu_private", "steps", 60, (), _steps(name), (name,))


# What a GPU is lent for first: should time run out, the parts at the end are those that go without.
PARTS = {
    "ceilings": Part("gpu_ceilings", "ceilings", 40, ("quarter rounds",)),
    "masking": Part("gpu_masking", "masking", 60, ("ChaCha20", "masked"), ((MASKING, "at_least", 0.7),)),
    STEPS[0]: _training(STEPS[0]),
    STEPS[2]: _training(STEPS[2]),
    "cohort": Part(
        "gpu_cohort", "cohort", 60, ("cohort, grouped", "cohort, patches"), ((COHORT, "at_least", 20.0),)
    ),
    "imaging": Part("gpu_imaging", "imaging", 40, (), ((IMAGING, "at_most", 2.0),)),
    "gradients": Part(
        "gpu_private", "gradients", 60, tuple(f"gradients, {name}" for name in GRADIENTS), interpreted=False
    ),
    "norms": Part("gpu_kernels", "norms", 60, ("squared_norms", "norms_and_gradients")),
    "accumulate": Part("gpu_kernels", "accumulate", 60, ("weighted_sum", "clipped_sum")),
    STEPS[1]: _training(STEPS[1]),
    "noise": Part("gpu_masking", "noise", 30, ("standard_normal",)),
    "unmasking": Part("gpu_masking", "unmasking", 40, ("unmasked_mean",)),
    "server": Part("gpu_sums", "server", 40, ("fedavg", "fedadam")),
    "histograms": Part("gpu_sums", "histograms", 40, ("histograms",)),
}
