"""Training kernels compile for GPUs that are not there, within registers and shared memory."""

from __future__ import annotations

from typing import Any

import pytest

from fedcore.learning.kernels import triton_accumulate, triton_histograms, triton_norms, triton_server
from tests.fedcore.learning.kernels.ahead import CAPABILITIES, Build, compiled

KINDS = ("fp32", "bf16", "fp16")
STRIDES = ("a_row", "a_position", "d_row", "d_position")
SHARED = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes that a block may take."""


def of(kind: str, sizes: tuple[str, ...], outputs: tuple[str, ...], *, aligned: bool) -> dict[str, str]:
    even = dict.fromkeys(("k", "o", *STRIDES), "i32:16" if aligned else "i32")
    pointers = {"a": f"*{kind}", "d": f"*{kind}", **dict.fromkeys(outputs, "*fp32")}
    return even | dict.fromkeys(sizes, "i32") | pointers


def split(settings: dict[str, Any], **more: object) -> tuple[dict[str, Any], dict[str, int]]:
    options = {name: settings[name] for name in ("num_warps", "num_stages")}
    return {key: value for key, value in settings.items() if key not in options} | more, options


def norms(kind: str, t: int, k: int, o: int, *, aligned: bool = True) -> list[Build]:
    wide = kind == "fp32"
    types = of(kind, ("t", "tiles"), ("sums", "sizes"), aligned=aligned)
    ghost = triton_norms.ghost_settings(triton_norms.ghost_tile(t), wide=wide)
    builds = [Build("_ghost", types, *split(ghost, a_feature=1, d_feature=1))]
    types = of(kind, ("t", "tiles"), ("sums", "sizes", "kept"), aligned=aligned)
    made = triton_norms.made_settings(k, o, wide=wide)
    for keep in (False, True):
        builds.append(Build("_made", types, *split(made, a_feature=1, d_feature=1, WIDE=False, KEEP=keep)))
    return builds


def sums(kind: str, t: int, k: int, o: int, *, clip: bool) -> Build:
    types = of(kind, ("n", "t", "steps", "each"), ("numbers", "sums"), aligned=True) | {"clip": "fp32"}
    settings = triton_accumulate.settings(t, k, o, wide=kind == "fp32")
    return Build("_weighted", types, *split(settings, a_feature=1, d_feature=1, CLIP=clip, WIDE=False))


def server(kind: str, step: int | None) -> Build:
    types = {"updates": f"*{kind}", "shares": "*fp32", "m": "i32", "p": "i32:16", "stride": "i32:16"}
    constants, options = {"BLOCK": triton_server.BLOCK}, {"num_warps": triton_server.WARPS}
    if step is None:
        return Build("_mean", types | {"out": "*fp32"}, constants, options)
    states = dict.fromkeys(("model", "first", "second"), "*fp32")
    numbers = dict.fromkeys(("rate", "beta1", "beta2", "rest1", "rest2", "tau"), "fp32")
    return Build("_step", types | states | numbers, constants | {"KIND": step}, options)


def histograms(bins: int, c: int) -> Build:
    pointers = {"bins": "*u8", "parts": "*bf16", "order": "*i64", "out": "*fp32"}
    blocks = {"block_node": "*i32", "block_first": "*i64", "block_count": "*i32"}
    numbers = ("blocks", "each", "nodes", "features", "wanted", "columns", "row_step", "feature_step")
    return Build(
        "_histograms",
        pointers | blocks | dict.fromkeys(numbers, "i32"),
        *split(triton_histograms.settings(bins, c)),
    )


def assert_fits(module: Any, builds: list[Build]) -> None:
    found = compiled(module.__name__, builds)
    assert len(found) == len(builds) * len(CAPABILITIES)
    for each in found:
        assert each.shared <= SHARED[each.capability], each
        assert each.spills == 0, each


@pytest.mark.slow
def test_norms_compile() -> None:
    builds = [build for kind in KINDS for build in norms(kind, 128, 512, 512)]
    assert_fits(triton_norms, builds + norms("fp32", 9, 3, 5) + norms("bf16", 9, 3, 5))


@pytest.mark.slow
def test_sums_compile() -> None:
    sizes = ((128, 512, 512), (1, 512, 512), (49, 576, 64))
    assert_fits(triton_accumulate, [sums(kind, *size, clip=size[0] == 1) for kind in KINDS for size in sizes])


@pytest.mark.slow
def test_steps_of_the_server_compile() -> None:
    assert_fits(
        triton_server, [server("fp32", None), *(server("fp32", kind) for kind in range(3)), server("bf16", 0)]
    )


@pytest.mark.slow
def test_histograms_compile() -> None:
    assert_fits(triton_histograms, [histograms(256, 2), histograms(64, 2), histograms(16, 1)])
