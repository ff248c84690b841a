"""`fedcore network plan` and `fedcore network show`: what they print, write and refuse."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fedcore.cli.main import run
from fedcore.errors import NoPlacement
from fedcore.network.descriptor import describe, sign_descriptor, write_descriptor
from fedcore.network.made_of import beside, load_made_of
from fedcore.network.plan import load_plan, verify
from fedcore.trust.identity import new_identity
from tests.fedcore.network.nodes import found, node_file
from tests.fedcore.network.test_files import CONFIGS

OWNERS = {"anna": "wuhu", "bert": "guian", "carl": "chengdu", "dora": "horinger"}
WORK = ["--rows", "4000", "--model-mb", "2"]
PARTICIPANT = """\
name: {name}
catalogue: {{}}
identity: {name}.key
nodes: [nodes/{name}.json]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, site in OWNERS.items():
        key = new_identity(tmp_path / f"{name}.key", name)
        made = describe(node_file(owner=name, site=site), found(), at=datetime.now(UTC))
        write_descriptor(sign_descriptor(made, key), tmp_path / "nodes" / f"{name}.json")
        (tmp_path / f"{name}.yaml").write_text(PARTICIPANT.format(name=name))
    files = ", ".join(f"{name}.yaml" for name in OWNERS)
    (tmp_path / "eight_hubs.yaml").write_text((CONFIGS / "networks" / "eight_hubs.yaml").read_text())
    (tmp_path / "fed.yaml").write_text(
        f"name: four\nparticipants: [{files}]\nnetwork: {{map: eight_hubs.yaml, root: zhangjiakou}}\n"
    )
    (tmp_path / "policy.yaml").write_text("name: ours\nparticipants: {pick: 3}\n")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(*words: str) -> int:
    return run(["network", "plan", "fed.yaml", "--policy", "policy.yaml", *words])


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_it_says_who_computes_who_aggregates_what_it_takes_and_why_not_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(*WORK, "--gap", "0.005") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("plan 1 of work  policy ours, map eight-hubs, coordinator at zhangjiakou")
    assert "trial" not in lines[1], "the keys are here"
    assert sum(line.split()[:1] in (["anna"], ["bert"], ["carl"], ["dora"]) for line in lines) == 3
    (figures,) = [line for line in lines if line.startswith("a round ")]
    assert all(
        word in figures for word in (" s, ", " kWh, ", " g CO2 by the grid (", " by contracts), ", " CNY")
    )
    (quality,) = [line for line in lines if line.startswith("quality ")]
    assert "bound " in quality and "of (random - bound)" in quality
    (circles,) = [line for line in lines if line.startswith("circles ")]
    assert "%)" in circles and "ms to the aggregator" in circles
    start = next(at for at, line in enumerate(lines) if line.startswith("not chosen ("))
    assert 1 <= len(lines[start + 1 :]) <= 11
    assert any(line.startswith("  in all: ") and "1 x owner: " in line for line in lines[start:])
    assert any(line.startswith("  site ") for line in lines[start:])


def test_the_plan_file_and_what_it_was_made_of_are_written_and_can_be_judged_anew(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(*WORK, "--out", "plan.json", "--json") == 0
    printed = told(capsys)
    made, made_of = load_plan(Path("plan.json")), load_made_of(Path("plan.json"))
    assert verify(made, made_of.offers, made_of.topology, made_of.policy).violations == ()
    assert printed["version"] == made.version == 1 and printed["file"] == "plan.json"
    assert printed["prediction"]["round_s"] == made.prediction.round_s
    assert printed["signed"] == sorted(OWNERS) and printed["trial"] == []
    assert plan(*WORK, "--out", "plan.json") == 0
    assert load_plan(Path("plan.json")).version == 2, "a version is used once"


def test_the_same_seed_gives_the_same_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = []
    for _ in range(2):
        assert plan(*WORK, "--seed", "5", "--json") == 0
        printed = told(capsys)
        made.append((printed["participants"], printed["aggregators"], printed["scale"], printed["rejected"]))
    assert made[0] == made[1]


def test_descriptors_without_their_owners_keys_give_a_trial_with_the_same_figures(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(*WORK, "--json") == 0
    signed = told(capsys)
    words = [
        "network",
        "plan",
        "nodes",
        "--policy",
        "policy.yaml",
        "--map",
        "eight_hubs.yaml",
        "--root",
        "zhangjiakou",
    ]
    assert run([*words, *WORK, "--json"]) == 0
    trial = told(capsys)
    assert trial["trial"] == sorted(OWNERS) and trial["prediction"] == signed["prediction"]
    assert run([*words, *WORK]) == 0
    assert "a trial: the keys of 4 owners are not here (anna, bert, carl, dora)" in capsys.readouterr().out


def test_what_a_job_and_a_run_of_it_say_need_not_be_said_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "job.yaml").write_text(
        "kind: train\nname: digits\ndata: rows\ntask: {use: tabular-classifier, target: y}\nlocal: {epochs: 3}\n"
        "placement: policy.yaml\nseed: 11\n"
    )
    result = {"name": "digits", "model": {"bytes": 2_000_000}, "participants": [{"train_rows": 1000}] * 4}
    (folder / "earlier").mkdir()
    (folder / "earlier" / "result.json").write_text(json.dumps(result))
    assert run(["network", "plan", "fed.yaml", "--job", "job.yaml", "--run", "earlier", "--json"]) == 0
    by_files = told(capsys)
    assert (by_files["job"], by_files["seed"], by_files["work"]["up_mb"]) == ("digits", 11, 2.0)
    # The node did 1,000 rows of this job in a second: 1,000 rows three times are three seconds and the transfer.
    seconds = [one["expected"]["seconds"] for one in by_files["participants"]]
    assert all(3.0 < each < 3.6 for each in seconds)
    assert run(["network", "plan", "fed.yaml", "--job", "job.yaml", *WORK, "--epochs", "6", "--json"]) == 0
    assert all(one["expected"]["seconds"] > 6 for one in told(capsys)["participants"])


def test_an_infeasible_policy_names_the_fewest_constraints_to_relax(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "policy.yaml").write_text(
        "name: strict\nhard: {round_deadline: 0.001, security_level: 3}\nparticipants: {pick: 3}\n"
    )
    assert plan(*WORK, "--out", "plan.json") == NoPlacement.exit_code == 12
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: no placement keeps every hard constraint of policy strict"
    assert lines[2].startswith("  hard.round_deadline to ")
    assert not Path("plan.json").exists()
    assert plan(*WORK, "--json") == 12
    answer = told(capsys)
    assert answer["relax"][0]["constraints"] == ["hard.round_deadline"]
    enough = answer["relax"][0]["enough"]["hard.round_deadline"]
    (folder / "policy.yaml").write_text(
        f"name: s\nhard: {{round_deadline: {enough}}}\nparticipants: {{pick: 3}}\n"
    )
    assert plan(*WORK) == 0, "what is said to be enough is"


def test_all_that_is_missing_is_told_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["network", "plan", "nodes", *WORK]) == 2
    said = capsys.readouterr().err
    assert "--map FILE" in said and "--root SITE" in said and "--policy FILE" in said
    assert plan() == 2
    said = capsys.readouterr().err
    assert "--rows N" in said and "--model-mb SIZE" in said and "--run" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--root", "zangjiakou"], 'no site is called "zangjiakou"; did you mean "zhangjiakou"?'),
        (["--policy", "missing.yaml"], "missing.yaml"),
        (["--run", "nowhere"], "cannot be read as a run's result"),
        (["--pair", "anna", "brt"], 'nobody called "brt" has a node here; did you mean "bert"?'),
        (["--pair", "anna", "anna"], "two or more different parties"),
    ],
)
def test_what_is_wrong_with_the_words_is_told_with_the_cure(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert plan(*WORK, *words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_node_at_a_site_that_the_map_does_not_have_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = describe(node_file(owner="anna", node="n2", site="guain"), found(), at=datetime.now(UTC))
    write_descriptor(made, folder / "nodes" / "far.json")
    assert run(["network", "plan", "nodes", "fed.yaml", "--policy", "policy.yaml", *WORK]) == 2
    assert "came already" in capsys.readouterr().err
    words = [
        "network",
        "plan",
        "nodes/far.json",
        "--policy",
        "policy.yaml",
        "--map",
        "eight_hubs.yaml",
        "--root",
        "wuhu",
    ]
    assert run([*words, *WORK]) == 2
    assert 'anna/n2 stands at "guain"' in capsys.readouterr().err


def test_a_forged_descriptor_is_left_out_and_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "nodes" / "dora.json"
    file.write_text(file.read_text().replace('"horinger"', '"zhongwei"'))
    assert plan(*WORK, "--json") == 0
    printed = told(capsys)
    assert [one["owner"] for one in printed["left_out"]] == ["dora"]
    assert {one["owner"] for one in printed["participants"]} == {"anna", "bert", "carl"}


def test_a_session_of_two_parties_is_placed_on_a_node_of_each(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--pair", "anna", "bert", "--bytes", "40000000", "--bytes-back", "1000000", "--trips", "4"]
    assert plan(*words, "--json") == 0
    met = told(capsys)
    assert met["parties"] == ["anna", "bert"]
    assert {name: one["site"] for name, one in met["offers"].items()} == {"anna": "wuhu", "bert": "guian"}
    # 40 MB at anna's 100 Mbit/s and 1 MB back at bert's 100 Mbit/s, and four round trips on top.
    assert met["seconds"] == pytest.approx(3.2 + 0.08, rel=0.1) and met["seconds"] > 3.28
    assert plan(*words) == 0
    assert "session of anna and bert, policy ours" in capsys.readouterr().out


# Show


@pytest.fixture
def planned(folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert plan(*WORK, "--out", "plan.json") == 0
    capsys.readouterr()
    return folder


def test_a_plan_is_shown_and_drawn(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["network", "show", "plan.json", "--out", "plan.svg"]) == 0
    printed = capsys.readouterr().out
    assert "plan 1 of work  policy ours" in printed and "picture: plan.svg" in printed
    drawn = (planned / "plan.svg").read_text()
    for one in load_plan(planned / "plan.json").participants:
        assert f'id="participant {one.owner}"' in drawn
    assert drawn.count('id="idle ') == 1
    assert run(["network", "show", "plan.json", "--out", "plan.png", "--json"]) == 0
    assert told(capsys)["picture"] == "plan.png" and (planned / "plan.png").read_bytes().startswith(
        b"\x89PNG"
    )


def test_the_front_of_a_plan_is_shown_and_drawn(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(["network", "show", "plan.json", "--pareto", "--steps", "2", "--out", "front.svg", "--json"]) == 0
    )
    points = told(capsys)["pareto"]
    assert points and any(one["efficient"] for one in points)
    assert '"carbon plan"' in (planned / "front.svg").read_text()
    assert run(["network", "show", "plan.json", "--pareto", "--steps", "2"]) == 0
    assert "weights of time, carbon, cost" in capsys.readouterr().out


def test_the_plan_of_a_run_is_found_by_the_runs_name(
    planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = planned / "runs" / "reading-1"
    place.mkdir(parents=True)
    (place / "result.json").write_text("{}")
    assert run(["network", "show", "last"]) == 3
    assert "the run was not placed" in capsys.readouterr().err
    for file in (Path("plan.json"), beside(Path("plan.json"))):
        file.rename(place / file.name)
    assert run(["network", "show", "reading-1", "--json"]) == 0
    assert told(capsys)["file"] == "runs/reading-1/plan.json"


def test_a_plan_that_lost_what_it_was_made_of_is_drawn_on_a_map_that_is_named(
    planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside(Path("plan.json")).unlink()
    assert run(["network", "show", "plan.json", "--out", "a.svg"]) == 3
    assert "--map" in capsys.readouterr().err
    assert run(["network", "show", "plan.json", "--out", "a.svg", "--map", "eight_hubs.yaml"]) == 0
    assert (planned / "a.svg").exists()
    assert run(["network", "show", "plan.json", "--pareto", "--map", "eight_hubs.yaml"]) == 3
    assert run(["network", "show", "plan.json"]) == 0


def test_a_file_that_is_no_plan_and_a_picture_of_no_form_are_refused(
    planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["network", "show", "policy.yaml"]) == 3
    assert "not a plan file" in capsys.readouterr().err
    assert run(["network", "show", "plan.json", "--out", "plan.gif"]) == 2
    assert "allowed: .svg, .png, .pdf" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["plan", "show"])
def test_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["network", name, "--help"]) == 0
    assert "Example: fedcore network" in " ".join(capsys.readouterr().out.split())
