"""The benchmark of analytics: a toy run of each part, and that its tests of noise would notice other noise."""

from __future__ import annotations

import json
import math

import numpy as np
import psutil
import pytest

from benchmarks import analytics, analytics_noise
from benchmarks.analytics import PARTS, main
from benchmarks.analytics_noise import GAUSSIAN, LAPLACE, Claimed, goodness
from benchmarks.common import Report

TARGETS = {"groups": 8, "poisson": 2, "distributed": 1, "release": 4}


def toy(*parts: str) -> Report:
    sizes = ["--sites", "6", "--rows", "600", "--regression-sites", "3", "--regression-rows", "1500"]
    return main([*sizes, "--sums", "400", "--releases", "400", "--parts", *parts, "--json"])


@pytest.fixture(autouse=True)
def same_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    # A benchmark keeps itself to its cores; the tests go on after it.
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda *_: [0, 1])


@pytest.mark.parametrize("part", PARTS)
def test_a_part_gives_figures_and_all_its_targets(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    if part == "poisson":
        pytest.importorskip("statsmodels")
    report = toy(part)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report.as_dict()))
    assert report.figures and not report.absent
    assert len(report.targets) == TARGETS[part]
    assert all(target.value is not None and math.isfinite(target.value) for target in report.targets)
    # What does not depend on how fast the machine is.
    exact = [each for each in report.targets if "difference" in each.name or "rounds" in each.name]
    assert len(exact) == {"groups": 2, "poisson": 2}.get(part, 0)
    assert all(each.met for each in exact)


def test_every_part_has_its_targets() -> None:
    assert set(TARGETS) == set(PARTS)


def test_a_site_has_the_same_rows_with_keys_of_either_kind_and_others_than_its_neighbour() -> None:
    numbers, texts = (analytics.share(3, 500, keys) for keys in analytics.KEYS.values())
    assert numbers["days"].equals(texts["days"])
    assert [f"ward {each:02}" for each in numbers["ward"].to_pylist()] == texts["ward"].to_pylist()
    assert 0 < numbers["days"].null_count < 25
    assert not analytics.share(4, 500, range(20))["days"].equals(numbers["days"])


@pytest.mark.parametrize(
    ("claimed", "width"), [(GAUSSIAN, 3.0), (GAUSSIAN, 5e6), (LAPLACE, 2.0), (LAPLACE, 5e6)]
)
def test_noise_that_is_a_tenth_wider_is_not_taken_for_what_is_claimed(claimed: Claimed, width: float) -> None:
    # Draws for a test only, seeded: the verdict is the same each time.
    draw = np.random.default_rng(5)
    continuous = draw.normal if claimed is GAUSSIAN else draw.laplace
    noise = np.rint(continuous(0, 1, 20_000) * width).astype(np.int64)
    wider = np.rint(noise * 1.1).astype(np.int64)
    assert goodness(wider, width, claimed) < 1e-6
    if width > analytics_noise.WIDE:
        assert goodness(noise, width, claimed) > 1e-3
    assert goodness(noise + max(1, round(width / 5)), width, claimed) < 1e-6


@pytest.mark.parametrize("claimed", [GAUSSIAN, LAPLACE])
@pytest.mark.parametrize("width", [0.5, 3.0, 40.0, 2e6])
def test_what_is_claimed_adds_up_to_one_and_is_symmetric(claimed: Claimed, width: float) -> None:
    edges = (
        np.array([-2, -1, 0, 1, 2, 3]) if width < 10 else np.rint(width * np.arange(-2, 3)).astype(np.int64)
    )
    masses = claimed.masses(edges, width)
    assert masses.sum() == pytest.approx(1, abs=1e-12) and len(masses) == len(edges) + 1
    if width < 10:
        # Numbers -2 to 2 each by itself.
        np.testing.assert_allclose(masses[1:-1], masses[1:-1][::-1], rtol=1e-9)
        weights = np.exp(claimed._log_weight(np.array([0.0, 1.0]), width))
        assert masses[4] / masses[3] == pytest.approx(weights[1] / weights[0], rel=1e-9)


@pytest.mark.parametrize("words", [["--sites", "4"], ["--rows", "0"], ["--parts", "group"]])
def test_sizes_and_parts_that_there_are_not_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
