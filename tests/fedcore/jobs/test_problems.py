"""Every kind of problem of one file is told with its line, all of them at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedcore.errors import JobError
from fedcore.jobs.load import check_files, load_job
from fedcore.jobs.show import filled_in
from tests.fedcore.jobs.job_files import JOB, only, told

# Keys


def test_unknown_key_names_the_nearest_and_all_allowed(folder: Path) -> None:
    said = only(folder, JOB + "local:\n  lr: 0.1\n  epoch: 2\n")
    assert said.startswith('a.yaml:7: local.epoch: unknown key; did you mean "epochs"? allowed: batch_size, ')


def test_unknown_key_like_no_other_lists_the_allowed_only(folder: Path) -> None:
    said = only(folder, JOB + "stop: {metric: auc, zzz: 1}\n")
    assert said == "a.yaml:5: stop.zzz: unknown key; allowed: metric, min_delta, mode, patience"


def test_value_under_a_misspelt_key_is_checked_too(folder: Path) -> None:
    problems = told(folder, JOB + "locl:\n  epochs: 0\n  optimiser: sdg\n")
    assert [problem.split("; ")[0] for problem in problems] == [
        "a.yaml:5: locl: unknown key",
        "a.yaml:6: local.epochs: must be greater than or equal to 1, not the number 0",
        "a.yaml:7: local.optimiser: unknown key",
        'a.yaml:7: local.optimizer: the text "sdg" is not allowed',
    ]


def test_key_that_stands_twice_is_refused_with_both_lines(folder: Path) -> None:
    said = only(folder, JOB + "rounds: 3\nseed: 1\nrounds: 4\n")
    assert said == "a.yaml:7: rounds: this key already stands in line 5; keep one of the two"


def test_missing_key_is_told_at_the_line_of_its_parent(folder: Path) -> None:
    said = only(folder, JOB + "seed: 1\nstop:\n  patience: 3\n")
    assert said == "a.yaml:6: stop.metric: missing: text is needed"


def test_misspelt_key_of_a_task_is_told_without_the_name_of_its_schema(folder: Path) -> None:
    said = only(folder, "kind: train\nname: a\ndata: d\ntask:\n  use: tabular-classifier\n  targt: y\n")
    assert said.startswith('a.yaml:6: task.targt: unknown key; did you mean "target"?')


def test_missing_key_of_a_data_set_is_told_without_the_name_of_its_schema(folder: Path) -> None:
    said = only(folder, "name: s\ncatalogue:\n  csv:\n    connector: csv\n")
    assert said == "a.yaml:3: catalogue.csv.path: missing: a path is needed"


def test_merge_key_is_an_unknown_key_as_yaml_1_2_has_none(folder: Path) -> None:
    assert only(folder, JOB + "local:\n  <<: {epochs: 2}\n").startswith("a.yaml:6: local.<<: unknown key")


# Values


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("rounds: '3'", 'rounds: must be a whole number, not the text "3"'),
        ("rounds: 1.5", "rounds: must be a whole number, not the number 1.5"),
        ("rounds: true", "rounds: must be a whole number, not true"),
        ("rounds: 0", "rounds: must be greater than or equal to 1, not the number 0"),
        ("local: {lr: fast}", 'local.lr: must be a number, not the text "fast"'),
        ("local: {lr: .nan}", "local.lr: must be a finite number"),
        ("local: {weight_decay: .inf}", "local.weight_decay: must be a finite number"),
        ("local: {device: gpu}", 'local.device: the text "gpu" is not auto, cpu, cuda or cuda:N'),
        ("local:", "local: must be a mapping (keys and values), not nothing"),
        ("local: 3", "local: must be a mapping (keys and values), not the number 3"),
        ("purpose: 12", "purpose: must be text, not the number 12; put it in quotes"),
        ("purpose: 'a b'", "purpose: a name uses letters, digits, '.', '_' and '-'"),
        ("deadline: 3 parsecs", "deadline: a duration is a number of seconds or text such as"),
        ("baselines: local", "baselines: must be a list of local or pooled, not the text"),
        ("baselines: [local, pool]", 'baselines[1]: the text "pool" is not allowed; did you mean "pooled"?'),
        ("local: {optimizer: adaw}", 'local.optimizer: the text "adaw" is not allowed; did you mean "ada'),
        ("participants: {min: 3, names: [a, b]}", "participants: min is 3 but only 2 are named"),
        ('purpose: "a\\0b"', "purpose: this text holds a control character; remove it"),
    ],
)
def test_wrong_value_is_told_with_what_is_needed(folder: Path, lines: str, said: str) -> None:
    assert said in only(folder, JOB + f"seed: 4\n{lines}\n")
    if "min is" not in said:  # told at the file's begin, as it concerns two keys
        assert only(folder, JOB + f"seed: 4\n{lines}\n").startswith("a.yaml:6: ")


def test_wrong_literal_lists_the_allowed_words_for_machines(folder: Path) -> None:
    (folder / "a.yaml").write_text(JOB + "local: {precision: float23}\n")
    (problem,) = check_files([folder / "a.yaml"])
    assert (problem.line, problem.column, problem.key, problem.value) == (5, 9, "local.precision", "float23")
    assert problem.allowed == ("auto", "bfloat16", "float16", "float32")
    assert problem.nearest == "float32"
    assert json.loads(json.dumps(problem.as_json()))["text"] == str(problem)


def test_number_or_word_is_one_problem_not_one_per_possibility(folder: Path) -> None:
    said = only(
        folder,
        "name: f\nvirtual: {count: 2, name: d, data: {connector: csv, path: rows.csv}}\n"
        "embedded: {workers: many}\n",
    )
    assert (
        said
        == 'a.yaml:3: embedded.workers: must be a whole number or auto, not the text "many"; allowed: auto'
    )


@pytest.mark.parametrize("size", ["[64]", "[1, 2, 3]"])
def test_list_of_the_wrong_length_is_one_problem(folder: Path, size: str) -> None:
    said = only(folder, f"name: s\ncatalogue:\n  i: {{connector: images, path: ., size: {size}}}\n")
    assert said.startswith("a.yaml:3: catalogue.i.size: must be a list of 2 whole numbers, not of ")


def test_all_problems_of_all_files_come_at_once(folder: Path) -> None:
    (folder / "b.yaml").write_text("name: s\ncatalogue: {}\nresources: {memory: lots}\n")
    (folder / "a.yaml").write_text(JOB + "rounds: none\nsede: 3\n")
    files = [problem.file.name for problem in check_files([folder / "a.yaml", folder / "b.yaml"])]
    assert files == ["a.yaml", "a.yaml", "b.yaml"]
    with pytest.raises(JobError, match=r"(?s)2 problems:\n.*rounds.*\n.*sede"):
        load_job(folder / "a.yaml")


# Choices: tasks, connectors, strategies, kinds


def test_unknown_task_names_the_nearest_and_its_other_keys_are_checked_as_that(folder: Path) -> None:
    problems = told(folder, JOB.replace("tabular-classifier", "tabular-clasifier").replace("target", "targt"))
    assert problems[0].startswith(
        'a.yaml:4: task.use: the text "tabular-clasifier" is not known; did you mean "tabular-classifier"? '
        "allowed: tabular-classifier, image-classifier, image-segmenter, package.module:Class"
    )
    assert [problem.split("; ")[0] for problem in problems[1:]] == ["a.yaml:4: task.targt: unknown key"]


def test_missing_use_of_a_task_says_nothing_of_its_other_keys(folder: Path) -> None:
    said = only(folder, JOB.replace("use: tabular-classifier, ", "hidden: [3], "))
    assert said == (
        "a.yaml:4: task.use: missing; allowed: tabular-classifier, image-classifier, image-segmenter, package.module:Class"
    )


def test_task_by_import_path_takes_its_own_arguments(folder: Path) -> None:
    (folder / "a.yaml").write_text(
        JOB.replace("tabular-classifier, target: y", "my.tasks:Net, with: {depth: 3}")
    )
    assert filled_in(load_job(folder / "a.yaml"))["task"]["with"] == {"depth": 3}


@pytest.mark.parametrize("use", ["my tasks:Net", "my.tasks:", ":Net"])
def test_import_path_of_the_wrong_form_is_refused(folder: Path, use: str) -> None:
    said = only(folder, JOB.replace("tabular-classifier", f'"{use}"'))
    assert said == f'a.yaml:4: task.use: the text "{use}" is not a built-in name or package.module:Class'


def test_unknown_connector_and_misspelt_connector_key_are_told_as_such(folder: Path) -> None:
    problems = told(
        folder,
        "name: s\ncatalogue:\n  a: {conector: csv, path: rows.csv}\n  b: {connector: cvs, path: rows.csv}\n",
    )
    assert problems[0].startswith('a.yaml:3: catalogue.a.conector: unknown key; did you mean "connector"?')
    assert problems[1].startswith(
        'a.yaml:4: catalogue.b.connector: the text "cvs" is not known; did you mean "csv"?'
    )
    assert len(problems) == 2


def test_unknown_strategy_names_the_nearest(folder: Path) -> None:
    said = only(folder, JOB + "strategy: {use: fedadm, server_lr: 0.1}\n")
    assert said.startswith('a.yaml:5: strategy.use: the text "fedadm" is not known; did you mean "fedadam"?')


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        (
            "use: fedadam, server_l: 1",
            'strategy.server_l: unknown parameter of fedadam; did you mean "server_lr"?',
        ),
        ("use: fedadam, server_lr: fast", 'strategy.server_lr: must be a number, not the text "fast"'),
        ("use: fedadam, server_lr: -1", "strategy.server_lr: must be a number above 0, not -1"),
        ("use: fedadam, server_lr: true", "strategy.server_lr: must be a number, not true"),
        ("use: fedprox, mu: 1, proximal_mu: 1", "strategy.proximal_mu: is the same parameter as mu"),
        ("mu: 1", "strategy.mu: unknown parameter of fedavg; allowed: use"),
        ("ues: fedprox, mu: 1", 'strategy.ues: unknown key; did you mean "use"?'),
    ],
)
def test_parameters_of_a_strategy_are_checked(folder: Path, strategy: str, said: str) -> None:
    assert only(folder, JOB + f"strategy: {{{strategy}}}\n").startswith(f"a.yaml:5: {said}")


def test_strategy_by_import_path_is_not_imported_by_a_check(folder: Path) -> None:
    assert told(folder, JOB + "strategy: {use: 'no_such_package.x:Y', anything: 3}\n") == []


def test_unknown_kind_names_those_of_this_version(folder: Path) -> None:
    assert only(folder, JOB.replace("train", "trian", 1)) == (
        'a.yaml:1: kind: the text "trian" is not a kind of job; did you mean "train"? allowed: analytics, psi, train, vertical'
    )
    assert only(folder, "kind: graph\nparties: {}\n").endswith(
        "is not a kind of job; allowed: analytics, psi, train, vertical"
    )


def test_misspelt_kind_is_still_a_job(folder: Path) -> None:
    said = only(folder, JOB.replace("kind", "kidn") + "participants: {min: 3}\n")
    assert said.startswith('a.yaml:1: kidn: unknown key; did you mean "kind"?')


# Files as such


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: train\nname: [a\n", "a.yaml:3: not YAML: "),
        ("kind: train\nname: a: b\n", "a.yaml:2: not YAML: mapping values are not allowed here"),
        ("kind: train\n---\nname: a\n", "a.yaml:2: not YAML: expected a single document in the stream"),
        ("\tkind: train\n", "a.yaml:1: not YAML: "),
        ("a: *nothing\n", "a.yaml:1: not YAML: found undefined alias"),
        ("", "a.yaml:1: the file is empty"),
        ("# nothing\n", "a.yaml:1: the file is empty"),
        ("[" * 600, "a.yaml: not usable: nested too deeply"),
        ("a: &a [*a]\n", "a.yaml:1: not usable: an alias (*name) contains itself"),
    ],
)
def test_text_that_is_not_yaml_is_told_with_its_line(folder: Path, text: str, said: str) -> None:
    assert only(folder, text).startswith(said)


def test_aliases_that_multiply_are_stopped(folder: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "more than 100000 values" in only(folder, "\n".join(lines))


def test_tags_construct_nothing(folder: Path) -> None:
    said = only(folder, JOB + "purpose: !!python/object/apply:os.system [echo]\n")
    assert said.startswith("a.yaml:5: purpose: the tag") and "remove it" in said


def test_file_that_is_not_utf_8_is_told(folder: Path) -> None:
    (folder / "a.yaml").write_bytes(b"name: \xff\n")
    assert "not UTF-8 text: byte 6" in str(check_files([folder / "a.yaml"])[0])


def test_missing_file_names_the_one_beside_it(folder: Path) -> None:
    (folder / "hospital.yaml").write_text(JOB)
    (problem,) = check_files([folder / "hospitl.yaml"])
    assert str(problem) == (f'{folder}/hospitl.yaml: no such file; did you mean "{folder}/hospital.yaml"?')


def test_folder_in_place_of_a_job_is_told(folder: Path) -> None:
    assert "is a folder; name a YAML file in it" in str(check_files([folder])[0])


@pytest.mark.parametrize("text", ["a: 1\nb: 2\n", "just text\n", "- 1\n", "name: x\n"])
def test_file_of_no_kind_is_told_what_the_four_kinds_have(folder: Path, text: str) -> None:
    said = only(folder, text)
    for kind, mark in (("job", "kind"), ("participant", "catalogue"), ("roster", "members")):
        assert f"a {kind} file has {mark}" in said
    assert "a federation file has participants or virtual or engine" in said


def test_yes_on_and_dates_are_text_and_a_leading_zero_is_no_octal(folder: Path) -> None:
    (folder / "a.yaml").write_text(JOB.replace("name: a", "name: yes") + "purpose: 2026-07-01\nrounds: 010\n")
    job = load_job(folder / "a.yaml")
    assert (job.name, job.purpose, job.rounds) == ("yes", "2026-07-01", 10)
