"""Files that name files, what is loaded from them, the ready files, and any misspelling in any of them."""

from __future__ import annotations

import json
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import JobError
from fedcore.jobs.datasets import Part
from fedcore.jobs.job import TrainJob
from fedcore.jobs.load import (
    KINDS,
    check_file,
    check_files,
    load_federation,
    load_job,
    load_participant,
    load_roster,
    recognise,
)
from fedcore.jobs.psi import PsiJob
from fedcore.jobs.show import as_yaml, filled_in
from fedcore.jobs.source import read_source
from fedcore.jobs.validation import validate
from tests.fedcore.jobs.job_files import JOB, KEY, PARTICIPANT, only, told

CONFIGS = Path(__file__).parents[3] / "configs"
READY = [file for kind in ("federations", "jobs") for file in sorted(CONFIGS.glob(f"{kind}/*.yaml"))]

# Files that files name


def test_missing_data_file_is_told_with_the_one_that_was_meant(folder: Path) -> None:
    said = only(folder, PARTICIPANT.replace("rows.csv", "row.csv"))
    assert said == (
        "a.yaml:3: catalogue.rows.path: row.csv does not exist; paths are relative to this file; "
        'did you mean "rows.csv"?'
    )


def test_folder_in_place_of_a_file_and_file_in_place_of_a_folder_are_refused(folder: Path) -> None:
    problems = told(
        folder,
        "name: s\ncatalogue:\n  a: {connector: csv, path: .}\n  b: {connector: images, path: rows.csv}\n"
        "  c: {connector: parquet, path: .}\n",
    )
    assert problems == [
        "a.yaml:3: catalogue.a.path: . is a folder; a file is needed",
        "a.yaml:4: catalogue.b.path: rows.csv is a file; a folder is needed",
    ]


def test_missing_identity_file_says_how_to_make_one(folder: Path) -> None:
    said = only(folder, PARTICIPANT + "identity: keys/a.key\n")
    assert said == 'a.yaml:4: identity: keys/a.key does not exist; make it with "fedcore identity new"'


def test_missing_central_data_is_told(folder: Path) -> None:
    said = only(folder, JOB + "evaluation:\n  central: {connector: csv, path: nothing/here.csv}\n")
    assert said.startswith("a.yaml:6: evaluation.central.path: nothing/here.csv does not exist")


def test_rule_about_a_data_set_that_is_not_there_is_told(folder: Path) -> None:
    said = only(folder, PARTICIPANT + "policy:\n  rules:\n    - {jobs: [train], data: row}\n")
    assert said.startswith('a.yaml:6: policy.rules[0].data: the text "row" is no data set of this catalogue')
    assert 'did you mean "rows"? allowed: any, rows' in said


def test_password_in_a_url_is_refused_and_never_repeated(folder: Path) -> None:
    url = "postgresql://me:hunter2@host/db"
    (folder / "a.yaml").write_text(
        f"name: s\ncatalogue:\n  pg: {{connector: postgresql, url: '{url}', table: t}}\n"
    )
    (problem,) = check_files([folder / "a.yaml"])
    assert problem.line == 3 and "password" in problem.message
    assert "hunter2" not in json.dumps(problem.as_json())


def test_federation_reports_its_participant_files_and_roster(folder: Path) -> None:
    (folder / "s1.yaml").write_text(PARTICIPANT)
    (folder / "s2.yaml").write_text(PARTICIPANT)
    (folder / "s3.yaml").write_text("name: c\ncatalog: {}\n")
    (folder / "roster.yaml").write_text("members:\n  site-a: {public_key: ssh-rsa AAAA}\n")
    problems = told(
        folder,
        "name: f\nroster: roster.yaml\nparticipants:\n  - s1.yaml\n  - s2.yaml\n  - s3.yaml\n  - s4.yaml\n"
        "  - s1.yaml\n",
    )
    assert [problem.removeprefix(f"{folder}/") for problem in problems] == [
        'a.yaml:5: participants[1]: s2.yaml has the name "site-a", which s1.yaml has too; names must differ',
        "a.yaml:7: participants[3]: s4.yaml does not exist; paths are relative to this file",
        "a.yaml:8: participants[4]: s1.yaml stands twice; name each participant once",
        's3.yaml:2: catalog: unknown key; did you mean "catalogue"? allowed: catalogue, evidence, identity, '
        "inbound, name, nodes, output, peers, policy, resources, state",
        'roster.yaml:2: members.site-a.public_key: the text "ssh-rsa AAAA" is not an OpenSSH public key line '
        "that begins with ecdsa-sha2-nistp384",
    ]


def test_federation_needs_participants_or_virtual_ones(folder: Path) -> None:
    assert only(folder, "name: f\nengine: embedded\n").endswith(
        "give exactly one of participants (files) and virtual"
    )


def test_another_kind_of_file_than_is_needed_is_told(folder: Path) -> None:
    (folder / "a.yaml").write_text(JOB)
    with pytest.raises(JobError, match="this is a job file; a federation file is needed here"):
        load_federation(folder / "a.yaml")


# What is loaded


def test_paths_are_absolute_against_the_folder_of_their_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "in").mkdir()
    (folder / "in" / "s.yaml").write_text(PARTICIPANT.replace("rows.csv", "../rows.csv"))
    (folder / "f.yaml").write_text("name: f\nparticipants: [in/s.yaml]\n")
    (folder / "j.yaml").write_text(JOB + "evaluation: {central: {connector: csv, path: rows.csv}}\n")
    monkeypatch.chdir(folder / "in")
    federation = load_federation("../f.yaml")
    (site,) = federation.participants
    assert federation.file == folder / "f.yaml"
    assert federation.participant_files == federation.spec.participants == (folder / "in" / "s.yaml",)
    assert site.catalogue["rows"].path == folder / "rows.csv"  # type: ignore[union-attr]
    assert site.state == folder / "in" / ".fedcore" / "site-a"
    assert load_participant("s.yaml") == site
    assert load_job("../j.yaml").evaluation.central.path == folder / "rows.csv"  # type: ignore[union-attr]


def test_state_that_a_participant_names_is_kept(folder: Path) -> None:
    (folder / "s.yaml").write_text(PARTICIPANT + "state: elsewhere\n")
    assert load_participant(folder / "s.yaml").state == folder / "elsewhere"


def test_virtual_federation_becomes_participants_with_a_part_each(folder: Path) -> None:
    (folder / "f.yaml").write_text(
        "name: many\nvirtual: {count: 3, name: rows, data: {connector: csv, path: rows.csv}, "
        "split: dirichlet, alpha: 0.3, label: y, seed: 9}\n"
    )
    federation = load_federation(folder / "f.yaml")
    assert [site.name for site in federation.participants] == ["site-0000", "site-0001", "site-0002"]
    assert federation.participant_files == ()
    for index, site in enumerate(federation.participants):
        data = site.catalogue["rows"]
        assert data.path == folder / "rows.csv"  # type: ignore[union-attr]
        assert data.part is not None
        assert data.part == Part(index=index, of=3, method="dirichlet", alpha=0.3, label="y", seed=9)
        assert site.evidence == "counts"
        assert [rule.data for rule in site.policy.rules] == ["rows"]
    assert len({site.state for site in federation.participants}) == 3


def test_dirichlet_split_without_a_label_is_told(folder: Path) -> None:
    said = only(
        folder,
        "name: many\n"
        "virtual: {count: 3, name: rows, data: {connector: csv, path: rows.csv}, split: dirichlet}\n",
    )
    assert said == "a.yaml:2: virtual: split dirichlet needs label: the class column"


def test_roster_is_loaded(folder: Path) -> None:
    (folder / "r.yaml").write_text(f"members:\n  site-a: {{public_key: {KEY}}}\n")
    assert load_roster(folder / "r.yaml").members["site-a"].public_key == KEY


# Ready files and --show


def test_the_ready_intersection_is_allowed_by_both_of_its_parties() -> None:
    job = load_job(CONFIGS / "jobs" / "shared_customers.yaml")
    assert isinstance(job, PsiJob)
    federation = load_federation(CONFIGS / "federations" / "bank_and_telecom.yaml")
    assert [site.name for site in federation.participants] == list(job.parties)
    for site in federation.participants:
        rule, party = site.policy.rules[0], job.parties[site.name]
        assert rule.data == party.data and rule.data in site.catalogue
        assert set(party.columns) <= set(rule.columns)
        assert rule.peers == rule.reveal.rows == tuple(set(job.parties) - {site.name})


@pytest.mark.parametrize("file", READY, ids=lambda file: file.name)
def test_ready_file_is_valid(file: Path) -> None:
    assert [str(problem) for problem in check_files([file])] == []


def test_ready_jobs_find_their_data_at_every_ready_hospital() -> None:
    federation = load_federation(CONFIGS / "federations" / "five_hospitals.yaml")
    assert len(federation.participants) == 5
    jobs = [load_job(file) for file in (CONFIGS / "jobs").glob("*.yaml")]
    for job in [each for each in jobs if isinstance(each, TrainJob)]:
        for site in federation.participants:
            assert job.data in site.catalogue
            assert any(rule.data == job.data and rule.purpose == job.purpose for rule in site.policy.rules)


@pytest.mark.parametrize("file", READY, ids=lambda file: file.name)
def test_shown_file_reads_back_as_the_same(file: Path, tmp_path: Path) -> None:
    checked = check_file(file)
    shown = tmp_path / file.name
    shown.write_text(as_yaml(checked.model))
    model, problems = validate(read_source(shown)[0], KINDS[checked.kind or ""])
    assert problems == []
    assert filled_in(model) == filled_in(checked.model)
    assert filled_in(model).keys() == type(model).model_fields.keys()


def test_shown_job_has_the_defaults_of_its_strategy(folder: Path) -> None:
    (folder / "a.yaml").write_text(JOB + "strategy: {use: fedadam, eta: 0.5}\n")
    strategy = filled_in(load_job(folder / "a.yaml"))["strategy"]
    assert strategy["eta"] == 0.5 and "server_lr" not in strategy
    assert strategy["beta1"] == 0.9


# Any misspelling

EVERYTHING = {
    "job": """
kind: train
name: a
data: rows
purpose: research
participants: {min: 2, names: [a, b], fraction: 0.5}
task: {use: tabular-classifier, target: y, features: [x], model: mlp, hidden: [3], standardize: none}
strategy: {use: fedadam, server_lr: 0.1}
evaluation: {central: {connector: csv, path: rows.csv}}
stop: {metric: auc}
""",
    "participant": """
name: site-a
catalogue:
  one: {connector: csv, path: rows.csv}
  two: {connector: images, path: .}
  three: {connector: dicom, path: ., labels: rows.csv, window: [1.0, 2.0]}
  four: {connector: sqlite, path: rows.csv, table: t}
policy: {rules: [{jobs: [train], data: one, columns: [x]}]}
""",
    "federation": """
name: f
virtual: {count: 2, name: rows, data: {connector: csv, path: rows.csv}, split: by, column: x, label: y,
          policy: {rules: [{jobs: [train], data: rows}]}}
""",
    "roster": f"members: {{site-a: {{public_key: {KEY}, contact: me}}}}\n",
}
FREE = {"one", "two", "three", "four", "rows", "site-a"}
"""Keys of these files that a person chooses."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """A folder, and the lines of one file of each kind with every key on a line of its own."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "rows.csv").write_text("x,y\n")
    texts = {}
    for kind, text in EVERYTHING.items():
        (folder / "all.yaml").write_text(text)
        checked = check_file(folder / "all.yaml")
        assert (checked.kind, [str(problem) for problem in checked.problems]) == (kind, [])
        texts[kind] = as_yaml(checked.model).splitlines()
    return folder, texts


def misspell(word: str, draw: Any) -> str:
    """The word with one slip of the hand."""
    at = draw(st.integers(0, len(word) - 1))
    slip = draw(st.sampled_from(["drop", "double", "swap"]))
    if slip == "drop" and len(word) > 2:
        return word[:at] + word[at + 1 :]
    if slip == "swap" and len(word) > 3:
        at = min(at, len(word) - 2)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at] + word[at:]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_misspelt_key_is_told_with_its_line_and_the_nearest(
    data: st.DataObject, filled: tuple[Path, dict[str, list[str]]]
) -> None:
    folder, texts = filled
    kind = data.draw(st.sampled_from(sorted(texts)))
    lines = list(texts[kind])
    keyed = [
        (number, line.lstrip(" -").split(":")[0])
        for number, line in enumerate(lines)
        if ":" in line and line.lstrip(" -").split(":")[0] not in FREE
    ]
    number, key = data.draw(st.sampled_from(keyed))
    wrong = misspell(key, data.draw)
    siblings = {other for _, other in keyed}
    if wrong in siblings:
        return
    lines[number] = lines[number].replace(key, wrong, 1)
    (folder / f"{kind}.yaml").write_text("\n".join(lines))
    problems = check_files([folder / f"{kind}.yaml"])
    found = [problem for problem in problems if problem.key.split(".")[-1] == wrong]
    assert len(found) == 1, problems
    assert found[0].line == number + 1
    assert found[0].message.startswith("unknown ")
    assert found[0].nearest is not None

    def likeness(other: str) -> float:
        return SequenceMatcher(None, wrong, other).ratio()

    assert likeness(found[0].nearest) >= likeness(key)
    if found[0].nearest == key and likeness(key) > 0.75:
        assert problems == found, "a misspelt key must not look like a missing one too"


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["a:b", "/"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_value_in_place_of_another_is_accepted_or_told_within_the_file(
    data: st.DataObject, filled: tuple[Path, dict[str, list[str]]]
) -> None:
    folder, texts = filled
    kind = data.draw(st.sampled_from(sorted(texts)))
    lines = list(texts[kind])
    number = data.draw(st.sampled_from([n for n, line in enumerate(lines) if ":" in line]))
    key, end = lines[number].split(":")[0], number + 1
    indent = len(key) - len(key.lstrip(" -"))
    while end < len(lines) and len(lines[end]) - len(lines[end].lstrip(" -")) > indent:
        end += 1
    lines[number:end] = [f"{key}: {json.dumps(data.draw(JUNK))}"]
    (folder / f"{kind}.yaml").write_text("\n".join(lines))
    checked = check_file(folder / f"{kind}.yaml", kind)
    assert (checked.model is None) == bool(checked.problems)
    for problem in checked.problems:
        assert problem.line is not None and 1 <= problem.line <= len(lines)
        assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({"kind": 1}, "job"),
        ({"name": 1, "catalogue": 1}, "participant"),
        ({"members": 1}, "roster"),
        ({"name": 1, "participants": 1}, "federation"),
        ({"name": 1, "engine": 1}, "federation"),
        ({"name": 1, "participants": 1, "task": 1, "data": 1}, "job"),
        ({"memebrs": 1}, "roster"),
        ({"name": 1}, None),
        ([], None),
    ],
)
def test_kind_of_file_is_known_by_its_keys(keys: Any, kind: str | None) -> None:
    assert recognise(keys) == kind
