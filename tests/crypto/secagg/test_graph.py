"""Degrees and thresholds against published ones; the graph; why `active` does not lean on luck."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.secagg.graph import Assumptions, Graph, NoParameters, parameters, sparse

# Of Google's implementation of the protocol, google-parfait/federated-compute (Apache-2.0), the tests of its
# fcp/secagg/server/graph_parameter_finder.cc, for security 2^-40 and correctness 2^-20:
# cohort, colluding, dropping out, degree, threshold.
CURIOUS = [
    (100, 0.45, 0.45, 92, 46),
    (1000, 0.45, 0.45, 822, 417),
    (10, 0.33, 0.33, 8, 4),
    (100, 0.33, 0.33, 68, 34),
    (1000, 0.33, 0.33, 286, 150),
    (10_000, 0.33, 0.33, 422, 221),
    (100_000, 0.33, 0.33, 480, 251),
    (1_000_000, 0.33, 0.33, 518, 270),
    (100, 0.05, 0.33, 28, 6),
    (1000, 0.05, 0.33, 72, 24),
    (10_000, 0.05, 0.33, 86, 29),
    (100_000, 0.05, 0.33, 96, 32),
    (1_000_000, 0.05, 0.33, 102, 34),
    (10, 0.33, 0.05, 4, 4),
    (100, 0.33, 0.05, 34, 29),
    (1000, 0.33, 0.05, 78, 60),
    (10_000, 0.33, 0.05, 92, 70),
    (1_000_000, 0.33, 0.05, 110, 83),
    (10, 0.05, 0.05, 2, 2),
    (100, 0.05, 0.05, 12, 6),
    (1000, 0.05, 0.05, 30, 17),
    (10_000, 0.05, 0.05, 34, 20),
    (1_000_000, 0.05, 0.05, 38, 22),
    (100, 0.33, 0.0, 26, 25),
    (1000, 0.33, 0.0, 38, 36),
    (1_000_000, 0.33, 0.0, 50, 47),
    (1000, 0.0, 0.33, 38, 2),
    (1000, 0.0, 0.0, 2, 2),
]
SEMI_MALICIOUS = [
    (100, 0.3, 0.3, 92, 62),
    (1000, 0.3, 0.3, 872, 584),
    (10, 0.05, 0.33, 8, 5),
    (100, 0.05, 0.33, 72, 39),
    (1000, 0.05, 0.33, 398, 223),
    (10_000, 0.05, 0.33, 746, 420),
    (10, 0.33, 0.05, 4, 4),
    (100, 0.33, 0.05, 42, 37),
    (1000, 0.33, 0.05, 132, 109),
    (10_000, 0.33, 0.05, 178, 146),
    (1_000_000, 0.33, 0.05, 212, 173),
    (100, 0.05, 0.05, 16, 11),
    (1000, 0.05, 0.05, 52, 37),
    (10_000, 0.05, 0.05, 62, 44),
    (1_000_000, 0.05, 0.05, 74, 52),
    (100, 0.33, 0.0, 26, 26),
    (1_000_000, 0.33, 0.0, 50, 49),
    (100, 0.0, 0.33, 68, 35),
    (1000, 0.0, 0.33, 228, 115),
    (1_000_000, 0.0, 0.33, 410, 206),
    (1000, 0.0, 0.0, 2, 2),
]


def counts(cohort: int, colluding: float, dropping: float) -> tuple[int, int]:
    """As the published code rounds them."""
    return math.floor((colluding + 1e-14) * cohort), cohort - math.ceil((1 - dropping - 1e-14) * cohort)


@pytest.mark.parametrize(("cohort", "colluding", "dropping", "degree", "threshold"), CURIOUS)
def test_a_curious_coordinator_asks_for_what_is_published(
    cohort: int, colluding: float, dropping: float, degree: int, threshold: int
) -> None:
    found = sparse(
        cohort,
        *counts(cohort, colluding, dropping),
        lambda k, c: c + 1,
        connected=True,
        security=40,
        correctness=20,
    )
    assert found == (degree, threshold)


@pytest.mark.parametrize(("cohort", "colluding", "dropping", "degree", "threshold"), SEMI_MALICIOUS)
def test_a_semi_malicious_coordinator_asks_for_what_is_published(
    cohort: int, colluding: float, dropping: float, degree: int, threshold: int
) -> None:
    found = sparse(
        cohort,
        *counts(cohort, colluding, dropping),
        lambda k, c: (k + c) // 2 + 1,
        connected=True,
        security=40,
        correctness=20,
    )
    assert found == (degree, threshold)


def test_where_the_published_finder_forgets_a_limit_this_one_does_not() -> None:
    # For 10 participants, none colluding and 3 dropping out, it gives degree 4 and threshold 2; but with all 3 among
    # one's 4 neighbours, which happens to each with probability 1/30, one is left.
    found = sparse(10, 0, 3, lambda k, c: c + 1, connected=True, security=40, correctness=20)
    assert found == (6, 2)


def test_a_billion_participants_cost_each_less_than_a_complete_graph_of_a_thousand() -> None:
    # "The semi-honest secure aggregation can handle a billion clients at the per-client cost of the protocol of
    # Bonawitz et al. for a thousand clients": abstract of the paper.
    third = 10**9 // 3
    found = sparse(10**9, third, third, lambda k, c: c + 1, connected=True, security=40, correctness=40)
    assert found is not None
    assert found[0] < 999


def hypergeometric(cohort: int, marked: int, drawn: int, count: int) -> float:
    return math.comb(marked, count) * math.comb(cohort - marked, drawn - count) / math.comb(cohort, drawn)


@pytest.mark.parametrize("adversary", ["curious", "active"])
@pytest.mark.parametrize(
    ("cohort", "corrupt", "dropout"), [(50, 0.1, 0.2), (100, 0.05, 0.1), (300, 0.1, 0.1)]
)
def test_both_probabilities_of_failure_are_below_two_to_minus_forty(
    cohort: int, corrupt: float, dropout: float, adversary: str
) -> None:
    # With exact integers, not the logarithms of the code.
    found = parameters(cohort, Assumptions(corrupt, dropout, adversary))  # type: ignore[arg-type]
    k, t = found.degree, found.threshold
    colluding, dropped = math.ceil(corrupt * cohort), math.ceil(dropout * cohort)
    unsafe = t if adversary == "curious" else t - k // 2
    insecure = sum(hypergeometric(cohort, colluding, k, c) for c in range(unsafe, min(colluding, k) + 1))
    stuck = sum(hypergeometric(cohort, dropped, k, c) for c in range(k - t + 1, min(dropped, k) + 1))
    assert cohort * insecure <= 2.0**-41 and cohort * stuck <= 2.0**-40


def test_the_degree_grows_with_the_logarithm_of_the_cohort() -> None:
    degrees = [parameters(10**power, Assumptions()).degree for power in (3, 4, 5, 6)]
    steps = [b - a for a, b in pairwise(degrees)]
    assert degrees == sorted(degrees) and max(steps[1:]) < 40 and degrees[-1] < 400


@pytest.mark.parametrize("adversary", ["curious", "active"])
@pytest.mark.parametrize("cohort", range(3, 33))
def test_a_small_cohort_is_a_complete_graph_that_holds_its_assumptions(cohort: int, adversary: str) -> None:
    found = parameters(cohort, Assumptions(adversary=adversary))  # type: ignore[arg-type]
    colluding, dropped = math.ceil(0.05 * cohort), math.floor(0.1 * cohort)
    assert found.degree == cohort - 1
    assert colluding < found.threshold <= cohort - 1 - dropped
    assert adversary == "curious" or 2 * found.threshold > cohort - 2 + colluding
    assert found.least >= 3 and 2 * found.least > cohort


def test_a_cohort_of_two_is_refused_unless_it_is_allowed() -> None:
    with pytest.raises(NoParameters, match="a cohort of 2; at least 3 are needed"):
        parameters(2, Assumptions())
    assert parameters(2, Assumptions(least_cohort=2)).threshold == 1
    with pytest.raises(ValueError, match="fewer than 2"):
        Assumptions(least_cohort=1)


@pytest.mark.parametrize(
    ("cohort", "corrupt", "dropout"), [(10, 0.5, 0.5), (100, 0.6, 0.3), (1000, 0.4, 0.4)]
)
def test_assumptions_that_nothing_holds_are_refused_with_numbers(
    cohort: int, corrupt: float, dropout: float
) -> None:
    with pytest.raises(
        NoParameters, match=f"of {cohort} participants {math.ceil(corrupt * cohort)} colluding"
    ):
        parameters(cohort, Assumptions(corrupt, dropout))


@pytest.mark.parametrize(
    "values",
    [
        {"corrupt": -0.1},
        {"corrupt": 1.0},
        {"dropout": 1.0},
        {"dropout": float("nan")},
        {"adversary": "x"},
        {"security": 0},
        {"correctness": 300},
    ],
)
def test_impossible_assumptions_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Assumptions(**values)  # type: ignore[arg-type]


# ---- the graph ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.data(), st.integers(3, 60), st.binary(min_size=28, max_size=40))
def test_neighbours_are_mutual_and_as_many_as_the_degree(
    data: st.DataObject, cohort: int, seed: bytes
) -> None:
    degree = data.draw(st.sampled_from([*range(2, cohort - 1, 2), cohort - 1]))
    graph = Graph(cohort, degree, seed)
    near = [graph.neighbours(index) for index in range(cohort)]
    for index, each in enumerate(near):
        assert len(set(each)) == degree and index not in each and list(each) == sorted(each)
        assert all(index in near[other] for other in each)
    assert near == [Graph(cohort, degree, seed).neighbours(index) for index in range(cohort)]


def test_every_two_are_neighbours_equally_often() -> None:
    cohort, degree, graphs = 12, 4, 1500
    times = np.zeros((cohort, cohort))
    for number in range(graphs):
        graph = Graph(cohort, degree, number.to_bytes(28, "little"))
        for index in range(cohort):
            times[index, list(graph.neighbours(index))] += 1
    expected = graphs * degree / (cohort - 1)
    upper = times[np.triu_indices(cohort, 1)]
    statistic = float(np.sum((upper - expected) ** 2 / expected))
    # 66 pairs, each with variance below its expectation: far outside this means a biased order.
    assert 15 < statistic < 120
    assert np.all(np.abs(upper - expected) < 6 * math.sqrt(expected))


def test_the_order_on_the_ring_is_uniform() -> None:
    # Of 4 on a ring there are 3 graphs: who is across from 0.
    across = [0, 0, 0, 0]
    for number in range(6000):
        near = Graph(4, 2, number.to_bytes(28, "big")).neighbours(0)
        across[6 - sum(near)] += 1
    assert across[0] == 0 and all(abs(each - 2000) < 6 * math.sqrt(2000 * 2 / 3) for each in across[1:])


# ---- `active` -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cohort", "degree"), [(9, 2), (10, 4), (12, 6), (13, 4), (14, 8)])
def test_two_disjoint_sets_cannot_both_have_most_of_their_neighbours_inside(cohort: int, degree: int) -> None:
    # Why a coordinator that lies about who dropped out learns one sum at most, on every subset of small rings.
    half = degree // 2
    windows = [
        sum(1 << ((place + step) % cohort) for step in range(-half, half + 1) if step)
        for place in range(cohort)
    ]
    closed = [
        members
        for members in range(1, 1 << cohort)
        if all(
            (members & window).bit_count() > half
            for place, window in enumerate(windows)
            if members >> place & 1
        )
    ]
    assert closed[-1] == (1 << cohort) - 1
    assert all(one & other for one, other in combinations(closed, 2))
    assert all(2 * members.bit_count() > cohort for members in closed)


def test_the_threshold_of_active_leaves_most_neighbours_honest() -> None:
    for cohort in (40, 100, 250, 1000):
        found = parameters(cohort, Assumptions())
        colluding = math.ceil(0.05 * cohort)
        likely = max(
            c
            for c in range(min(colluding, found.degree) + 1)
            if cohort
            * sum(
                hypergeometric(cohort, colluding, found.degree, i)
                for i in range(c, min(colluding, found.degree) + 1)
            )
            > 2.0**-41
        )
        assert found.threshold - likely > found.degree / 2


def test_an_active_coordinator_may_try_a_million_million_graphs() -> None:
    # Its c is passed with probability 2^-81 by anybody, over the order of one graph.
    told = parameters(1000, Assumptions())
    found = sparse(1000, 50, 100, lambda k, c: k // 2 + c + 1, connected=False, security=80, correctness=40)
    assert found == (told.degree, told.threshold)
    once = sparse(1000, 50, 100, lambda k, c: k // 2 + c + 1, connected=False, security=40, correctness=40)
    assert once is not None and once[0] < told.degree
