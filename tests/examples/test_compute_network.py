"""The example of the compute network: an invented network that holds together, real training, and what it shows."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest

from examples.compute_network.courses import POLICIES, SLACK, Chooser, course, policy
from examples.compute_network.federation import KINDS, MAP, ROOT, WORK, Network, make_network
from examples.compute_network.learning import Digits, gradients, loss
from examples.notebooks.execute import execute
from fedcore.network.carbon import location_intensity
from fedcore.network.offer import check_offers
from fedcore.network.place import make_plan
from fedcore.network.plan import Plan

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "compute_network"


@pytest.fixture(scope="module")
def network() -> Network:
    return make_network(7)


@pytest.fixture(scope="module")
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compute_network_run", EXAMPLE / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compute_network_run"] = module
    spec.loader.exec_module(module)
    return module


# ---- the network ---------------------------------------------------------------------------------------------------


def test_forty_participants_at_eight_hubs_with_plausible_offers_of_unequal_hardware(network: Network) -> None:
    check_offers(network.offers)
    assert len(network.owners) == 40
    assert len({offer.site for offer in network.offers}) == 8
    assert set(network.kinds.values()) == set(KINDS)
    seconds = np.array([offer.work_s for offer in network.offers])
    assert np.quantile(seconds, 0.9) > 5 * np.quantile(seconds, 0.1)


def test_a_seed_draws_the_same_network_again(network: Network) -> None:
    assert make_network(7).offers == network.offers != make_network(8).offers


def test_nothing_that_was_drawn_says_it_was_measured(network: Network) -> None:
    sources = {quantity.source for node in network.descriptors for quantity in node.quantities.values()}
    assert sources == {"declared"}


def test_the_hubs_factors_are_those_of_their_provinces(network: Network) -> None:
    for name, site in network.topology.sites.items():
        assert site.carbon_g_per_kwh == pytest.approx(
            location_intensity("CN", site.region).value, abs=0.06
        ), name
    for node in network.descriptors:
        told = node.get("carbon.location")
        assert told is not None and told.value == network.topology.sites[node.site].carbon_g_per_kwh


def test_hardware_can_be_made_alike() -> None:
    alike = make_network(7, unlike=0.0)
    rates = {offer.work_s for offer in alike.offers if offer.id.endswith("/cuda")}
    assert max(rates) == pytest.approx(min(rates))


# ---- the model -----------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_loss() -> None:
    draw = np.random.default_rng(0)
    model = [draw.normal(size=shape) for shape in ((6, 5), (5,), (5, 10), (10,))]
    x, y = draw.normal(size=(8, 6)), draw.integers(0, 10, 8)
    for part, slope in zip(model, gradients(model, x, y), strict=True):
        for _ in range(5):
            at = tuple(int(draw.integers(size)) for size in part.shape)
            kept, step = part[at], 1e-6
            part[at] = kept + step
            above = loss(model, x, y)
            part[at] = kept - step
            below = loss(model, x, y)
            part[at] = kept
            assert slope[at] == pytest.approx((above - below) / (2 * step), abs=1e-6)


def test_rows_are_dealt_once_in_equal_numbers_and_unlike_shares(network: Network) -> None:
    digits = Digits(network.owners)
    sizes = {len(y) for _, y in digits.rows.values()}
    assert sizes == {35}
    rows = np.vstack([x for x, _ in digits.rows.values()])
    most = [Counter(y.tolist()).most_common(1)[0][1] for _, y in digits.rows.values()]
    assert len(rows) == 1400 and np.mean(most) > 35 / 3


def test_a_round_without_updates_changes_nothing_and_one_alone_is_that_owners_model(network: Network) -> None:
    digits, other = Digits(network.owners), Digits(network.owners)
    before = [part.copy() for part in digits.model]
    digits.train(())
    assert all(np.array_equal(one, two) for one, two in zip(before, digits.model, strict=True))
    other.rounds = 1
    alone = other.train(network.owners[:1])
    assert digits.train(network.owners[:1]) == alone
    assert not all(np.array_equal(one, two) for one, two in zip(before, digits.model, strict=True))


def test_training_everybody_learns_the_digits(network: Network) -> None:
    digits = Digits(network.owners)
    scores = [digits.train(network.owners) for _ in range(15)]
    assert scores[0] < 0.6 and scores[-1] > 0.88


# ---- courses -------------------------------------------------------------------------------------------------------


def test_each_policy_is_best_at_what_it_is_named_for(network: Network) -> None:
    told = {
        name: make_plan(network.offers, network.topology, policy(name), WORK, ROOT).prediction
        for name in POLICIES
    }
    assert min(told, key=lambda name: told[name].gco2_location) == "green"
    assert min(told, key=lambda name: told[name].cost) == "cheap"
    # Latency and security have a little weight in it, too.
    assert told["fast"].round_s <= 1.02 * min(each.round_s for each in told.values())
    assert told["fast"].round_s < told["cheap"].round_s / 3


def test_chance_takes_longer_than_every_policy_that_looks_at_time(network: Network) -> None:
    chance = course(network, policy("balanced"), random=True, rounds=5, target=2.0)[-1]
    for name in ("fast", "balanced"):
        assert course(network, policy(name), rounds=5, target=2.0)[-1].seconds < chance.seconds / 1.5


def test_a_course_is_the_same_again_by_its_seed(network: Network) -> None:
    runs = [course(network, policy("green"), seed=3, rounds=4, target=2.0) for _ in range(2)]
    assert runs[0] == runs[1]


def test_nobody_takes_part_more_often_than_the_policy_says(network: Network) -> None:
    laps = course(network, policy("fast"), rounds=16, target=2.0)
    for start in range(len(laps) - 7):
        window = Counter(
            owner for lap in laps[start : start + 8] for owner in (*lap.took.done, *lap.took.lost)
        )
        assert max(window.values()) <= 4


def test_under_a_deadline_no_plan_takes_much_longer_than_that_of_the_other_policy(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = policy("fast")
    choose = Chooser(network, policy("green"), than=fast)
    plans: list[Plan] = []
    plain = Chooser._plan
    monkeypatch.setattr(Chooser, "_plan", lambda *given: plans.append(plain(*given)) or plans[-1])
    for number in range(1, 6):
        assert len(choose(number, network.offers)) == 10
    for quick, green in zip(plans[::2], plans[1::2], strict=True):
        assert green.prediction.round_s <= SLACK * quick.prediction.round_s * (1 + 1e-9)
        assert green.prediction.gco2_location < quick.prediction.gco2_location


def test_where_too_few_are_up_nothing_is_placed(network: Network) -> None:
    few = [offer for offer in network.offers if offer.owner in network.owners[:3]]
    assert Chooser(network, policy("fast"))(1, few) == ()
    assert Chooser(network, policy("fast"), np.random.default_rng(0))(1, ()) == ()


# ---- what is shown -------------------------------------------------------------------------------------------------


def test_the_command_prints_a_row_for_each_way_to_choose_says_it_is_simulated_and_draws(
    run: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.main(["--seeds", "1", "--rounds", "2", "--figure", str(tmp_path / "new" / "figure.png")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("SIMULATION")
    shown = [line.split()[0] for line in lines if re.match(r"(chance|fast|green|cheap|balanced)\s+2\s", line)]
    assert shown == ["chance", *POLICIES]
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_names_every_policy_and_file_and_says_what_is_invented() -> None:
    page = (EXAMPLE / "README.md").read_text()
    for name in (*POLICIES, "federation.py", "learning.py", "courses.py", "run.py"):
        assert name in page
    assert "Simulated" in page and "invented" in page
    assert MAP.exists() and ROOT in page and str(int(WORK.up_mb)) in page


def test_the_notebook_runs_anywhere_and_its_plan_holds_in_calm_weather(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLE.parent / "notebooks" / "02-compute-network.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    execute(notebook, tmp_path, timeout=240)
    shown = "\n".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    (planned,) = re.findall(r"the round: ([\d.]+) s, ([\d.]+) g", shown)
    (simulated,) = re.findall(r"without weather: ([\d.]+) s, ([\d.]+) g", shown)
    assert simulated == planned
    assert len(re.findall(r"^(?:chance|fast|green|cheap|balanced) .* accuracy 0.9", shown, re.MULTILINE)) == 5
    assert list(tmp_path.iterdir()) == []
