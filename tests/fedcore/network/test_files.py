"""Maps, policies, nodes and descriptors as `fedcore validate` checks them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.jobs.load import recognise
from fedcore.network.descriptor import write_descriptor
from fedcore.network.files import check_network_file, network_kind
from fedcore.network.policy import load_policy
from tests.fedcore.network.nodes import described

CONFIGS = Path(__file__).parents[3] / "configs"
NODE = "node: n\nowner: anna\nsite: s\njurisdiction: CN\n"


def problems(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "a.yaml").write_text(text)
    found = check_network_file(tmp_path / "a.yaml")
    assert found is not None
    assert (found.model is None) == bool(found.problems)
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in found.problems]


@pytest.mark.parametrize("kind", ["networks", "policies"])
def test_the_ready_files_are_sound(kind: str) -> None:
    files = sorted((CONFIGS / kind).glob("*.yaml"))
    assert len(files) >= 2
    for file in files:
        found = check_network_file(file)
        assert found is not None and found.problems == (), file.name
        assert found.kind == {"networks": "network", "policies": "policy"}[kind]


def test_each_ready_policy_has_the_name_of_its_file_and_weighs_most_what_it_is_called_after() -> None:
    rules = {file.stem: load_policy(file) for file in (CONFIGS / "policies").glob("*.yaml")}
    assert set(rules) == {"balanced", "cheap", "fast", "green"}
    for name, term in (("green", "carbon"), ("cheap", "cost"), ("fast", "time"), ("balanced", "time")):
        assert rules[name].name == name
        weights = rules[name].weights.model_dump()
        assert max(weights, key=lambda each: weights[each]) == term


@pytest.mark.parametrize("file", sorted((CONFIGS).glob("[fj]*/*.yaml")), ids=lambda file: file.name)
def test_files_of_other_kinds_are_left_to_others(file: Path) -> None:
    assert check_network_file(file) is None


def test_a_policy_with_participants_only_is_no_federation() -> None:
    data = {"name": "p", "participants": {"pick": 4}}
    assert network_kind(data) == "policy"
    assert network_kind({"name": "f", "participants": ["a.yaml"]}) is None
    assert recognise({"name": "f", "participants": ["a.yaml"]}) == "federation"


@pytest.mark.parametrize("data", [None, [], "text", {}, {"name": "x"}, {"kind": "train", "sites": {}}])
def test_what_has_no_mark_is_of_no_kind(data: object) -> None:
    assert network_kind(data) is None


def test_weights_that_do_not_sum_to_one_and_unknown_keys_are_told_together(tmp_path: Path) -> None:
    said = problems(tmp_path, "name: p\nweights: {time: 0.9, carbon: 0.9}\nfairnes: {window: 3}\n")
    assert any(
        one.startswith("a.yaml:2: weights: the weights sum to 2.2; they must sum to 1") for one in said
    )
    assert any("fairnes: unknown key" in one and '"fairness"' in one for one in said)


def test_link_to_a_site_that_is_not_there_is_told_with_its_line_and_the_nearest_name(tmp_path: Path) -> None:
    text = (
        "name: m\nsites:\n  wuhu: {tier: hub, jurisdiction: CN}\n  guian: {tier: hub, jurisdiction: CN}\nlinks:\n"
        "  - {ends: [wuhu, guain], km: 10, mbit_s: 100}\n"
    )
    (said,) = problems(tmp_path, text)
    assert said.startswith('a.yaml:6: links[0].ends[1]: no site is called "guain"') and "guian" in said


def test_absurd_pue_of_a_node_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, NODE) == []
    (said,) = problems(tmp_path, NODE + "pue: 0.8\n")
    assert said.startswith("a.yaml:5: pue: must be greater than or equal to 1")


def test_unknown_key_of_a_quantity_in_a_descriptor_is_told(tmp_path: Path) -> None:
    write_descriptor(described(), tmp_path / "d.json")
    found = check_network_file(tmp_path / "d.json")
    assert found is not None and found.kind == "descriptor" and found.problems == ()
    text = (tmp_path / "d.json").read_text().replace('"method"', '"methd"', 1)
    (tmp_path / "d.json").write_text(text)
    wrong = check_network_file(tmp_path / "d.json")
    assert wrong is not None and "unknown key" in str(wrong.problems[0])
