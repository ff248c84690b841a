"""The pages say what is there: links, commands, settings, names in the code."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType

import click
import pytest

from docs import generate_reference
from fedcore.cli.main import COMMANDS, load
from fedcore.jobs.load import KINDS, check_file, recognise
from fedcore.jobs.problems import Problem
from fedcore.jobs.source import read_source
from fedcore.network.files import check_network_file
from tests.docs.pages import PAGES, ROOT, Block, anchors, blocks, code_words, commands, links, name, text_of

YAML = [block for page in PAGES for block in blocks(page, "yaml")]
EXAMPLE = ROOT / "examples" / "custom_strategy" / "steady_average.py"
LONGEST_STRATEGY = 25
PAPER = (ROOT / "README.md", ROOT / "docs" / "security.md")

every_page = pytest.mark.parametrize("page", PAGES, ids=name)


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in links(page):
        file, _, anchor = link.partition("#")
        if file.startswith(("https://", "http://", "mailto:")):
            continue
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


def test_every_page_of_docs_is_in_its_index() -> None:
    index = ROOT / "docs" / "README.md"
    assert {page.name for page in ROOT.glob("docs/*.md")} - {index.name} <= set(links(index))


def test_every_example_is_in_its_index() -> None:
    listed = " ".join(links(ROOT / "examples" / "README.md"))
    there = [
        path.name for path in (ROOT / "examples").iterdir() if not path.name.startswith((".", "_", "README"))
    ]
    assert [path for path in there if path not in listed] == []


@every_page
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands(page):
        problem = problem_of(words)
        assert problem is None, f"fedcore {' '.join(words)}: {problem}"


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    assert problem_of(["rum", "job.yaml"]) == "no command rum"
    assert problem_of(["run", "job.yaml", "--enjine", "x"]) == "no option --enjine"
    assert problem_of(["federation", "upp", "x.yaml"]) == "no command upp"
    assert problem_of(["psi", "--left", "x", "--rihgt", "y"]) == "no option --rihgt"
    assert problem_of(["psi", "party", "--lsten", "x"]) == "no option --lsten"
    assert (
        problem_of(["run"]) is None and problem_of(["federation", "up", "FED.yaml", "--foreground"]) is None
    )


def problem_of(words: list[str]) -> str | None:
    """What is wrong with the words after `fedcore`."""
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    plain = [word for word in words if not word.startswith("-")]
    if not plain:
        return next((f"no option {word}" for word in options if word not in ("--help", "--version")), None)
    if plain[0] not in COMMANDS:
        return f"no command {plain[0]}"
    command = load(plain[0])
    # A group may be a command too: then an option stands where the name of a member would.
    if isinstance(command, click.Group) and len(plain) > 1 and words[1] == plain[1]:
        if plain[1] not in command.commands:
            return f"no command {plain[1]}"
        command = command.commands[plain[1]]
    known = {"--help", *(option for parameter in command.params for option in parameter.opts)}
    return next((f"no option {word}" for word in options if word not in known), None)


def test_each_command_is_named_somewhere() -> None:
    named = {words[0] for page in PAGES for words in commands(page) if words}
    assert set(COMMANDS) - named == set()


@every_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shell = [
        line for block in blocks(page) if block.language in ("", "sh") for line in block.text.splitlines()
    ]
    named = {match[1] for line in [*shell, *code_words(page)] if (match := re.match(r"make ([a-z]+)", line))}
    assert named <= targets


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_is_a_sound_file_or_a_sound_part_of_one(block: Block, tmp_path: Path) -> None:
    assert problems_of(block.text, tmp_path) == []


def test_yaml_that_is_not_sound_would_be_noticed(tmp_path: Path) -> None:
    whole = "kind: train\nname: x\ndata: d\ntask: {use: tabular-classifier, target: y}\n"
    assert problems_of(whole, tmp_path) == []
    for wrong in (
        whole + "round: 3\n",
        whole + "rounds: many\n",
        whole.replace("data: d\n", ""),
        whole + "strategy: {use: fedadam, server_rate: 1}\n",
        "catalogue:\n  x: {connector: parket, path: x}\n",
        "stop: {metrik: loss}\n",
    ):
        assert problems_of(wrong, tmp_path), wrong


def problems_of(text: str, folder: Path) -> list[str]:
    """What is wrong with a block. One without a name is part of a file, so that keys may be missing."""
    file = folder / "block.yaml"
    file.write_text(text)
    of_network = check_network_file(file)
    if of_network is not None:
        return [str(problem) for problem in of_network.problems]
    source, _ = read_source(file)
    kind = recognise(source.data)
    part = not isinstance(source.data, dict) or not {"name", "members"} & set(source.data)
    tried = [
        [problem for problem in check_file(file, each).problems if counts(problem, part)]
        for each in ([kind] if kind else KINDS)
    ]
    return [str(problem) for problem in min(tried, key=len)]


def counts(problem: Problem, part: bool) -> bool:
    """Whether a problem is one of the page: data and neighbours of the file are not there, and need not be."""
    if "does not exist" in problem.message or (part and problem.message.startswith("missing")):
        return False
    # A key in a page is cut short, and the members of the roster stand for themselves.
    return not (part and problem.message.startswith("give exactly one of participants"))


@pytest.mark.parametrize("block", [b for page in PAGES for b in blocks(page, "python")], ids=str)
def test_python_in_the_pages_can_be_parsed(block: Block) -> None:
    ast.parse(block.text)


@every_page
def test_files_and_names_in_the_code_exist(page: Path) -> None:
    lost = []
    for word in code_words(page):
        if re.fullmatch(r"(fedcore|strategies|tests|docs|examples|configs|benchmarks)/[\w./-]+", word):
            found = (ROOT / word).exists()
        elif re.fullmatch(r"(fedcore|strategies)(\.[A-Za-z_]\w*)+(\(.*\))?", word):
            found = resolves(word.split("(")[0])
        else:
            continue
        if not found:
            lost.append(word)
    assert not lost


def resolves(dotted: str) -> bool:
    """Whether `package.module.name` is there."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: ModuleType | object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_the_page_of_settings_is_what_the_schemas_say() -> None:
    assert generate_reference.PAGE.read_text(encoding="utf-8") == generate_reference.page(), (
        "docs/jobs.md is out of date; run: python docs/generate_reference.py"
    )


def test_the_readme_quotes_the_strategy_as_it_is() -> None:
    quoted = [block.text for block in blocks(ROOT / "README.md", "python")]
    assert quoted == [EXAMPLE.read_text()]
    assert len(quoted[0].splitlines()) < LONGEST_STRATEGY


def test_the_readme_quotes_the_first_job_as_it_is() -> None:
    quoted = [block.text for block in blocks(ROOT / "README.md", "yaml")]
    assert quoted == [(ROOT / "examples" / "first_job.yaml").read_text()]


def test_the_readme_shows_the_commands_and_the_report_on_its_first_screen() -> None:
    first = text_of(ROOT / "README.md").split("\n## ")[0]
    assert "make demo" in first and "make test" in first
    picture = re.search(r"!\[[^\]]+\]\((docs/images/[^)]+)\)", first)
    assert picture is not None
    assert 10_000 < (ROOT / picture[1]).stat().st_size < 300_000


@pytest.mark.parametrize("page", PAPER, ids=name)
def test_what_is_not_protected_is_said(page: Path) -> None:
    text = text_of(page).lower()
    for words in ("secure aggregation", "differential privacy", "coordinator sees"):
        assert words in text


@every_page
def test_no_path_of_a_machine_stands_in_a_page(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(tmp|home|work|root|Users)/", text_of(page))
