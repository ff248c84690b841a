"""Survival over eighteen hospitals, none of which shows a row: one command.

    python examples/hospital_survival/run.py                            all parts
    python examples/hospital_survival/run.py sums refusals              some of them
    python examples/hospital_survival/run.py breast --tcga brca.csv     TCGA-BRCA by region, from a file of your own

Writes each site's rows, participant file and policy into a folder, asks, and puts each answer beside what all rows in one
place give.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1]))

import yaml  # noqa: E402
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import fedcore  # noqa: E402
from examples.hospital_survival.reference import Compared, check  # noqa: E402
from examples.hospital_survival.sites import (  # noqa: E402
    CONFIGS,
    Sites,
    breast,
    cities,
    lung,
    pooled,
    write,
)
from fedcore.analytics.disclosure import SUPPRESSED  # noqa: E402
from fedcore.coordinator.record_analytics import Answered, answers_of  # noqa: E402
from fedcore.coordinator.terminal_analytics import table as shown  # noqa: E402
from fedcore.errors import FedcoreError, JobError  # noqa: E402
from fedcore.jobs.analytics import AnalyticsJob  # noqa: E402
from fedcore.jobs.load import load_job, load_participant  # noqa: E402

LUNG: dict[str, Any] = {
    "rule": {"purpose": "research", "min_cohort": 10, "min_cell": 5},
    "catalogue": {"levels": {"sex": [1, 2]}, "units": {"time": "days", "age": "years"}},
}
DEPLOYMENT = "deployment"
REFUSALS: dict[str, dict[str, Any]] = {
    "hospital-13": {"statistics": ["count", "mean", "quantile", "t_test"]},
    "hospital-22": {"purpose": "treatment"},
    "hospital-33": {"min_cohort": 30},
}
"""What three of the hospitals allow in another way than the rest."""
DIFFERENCE = {"fitness": {"contingency": {"down": "sex", "across": "ph.ecog"}}}
"""Beside `by_sex`, a question that would tell of few patients: those whose fitness is rare, or not known."""
BUDGET = {"epsilon": 2, "delta": 1e-5, "per": "ever", "neighbours": "add-remove-row"}


@dataclass(frozen=True)
class Ended:
    """A part of the example.

    Args:
        folder: Of the run.
        job: What was asked.
        answers: By question.
        left_out: Sites that answered nothing, and why.
        compared: Numbers beside those of the pooled rows; empty where statsmodels is not installed.
    """

    folder: Path
    job: AnalyticsJob
    answers: dict[str, Answered]
    left_out: dict[str, str]
    compared: tuple[Compared, ...]

    @property
    def holds(self) -> bool:
        """Whether each number is what was promised."""
        return all(each.holds for each in self.compared)


def sums(folder: Path, engine: str, questions: Sequence[str] = ()) -> Ended:
    """All questions under secure sums: the coordinator sees no hospital's part."""
    return _lung(folder, engine, questions=questions)


def alone(
    folder: Path, engine: str, questions: Sequence[str] = ("hazard", "death", "survival", "by_sex")
) -> Ended:
    """Without secure sums: each hospital's part is seen, so that it keeps small cells back, and few can answer."""
    changes = {"participants": {"min": 5}, "protection": {"secure_aggregation": "none"}}
    return _lung(
        folder,
        engine,
        questions=questions,
        changes=changes,
        rules={name: {"min_cohort": 5} for name in lung()},
    )


def refusals(folder: Path, engine: str, questions: Sequence[str] = ("by_sex", "hazard")) -> Ended:
    """Hospitals refuse a question or all of them; the others answer, and who is not in a sum is named."""
    changes = {"levels": {"ph.ecog": [0, 1, 2, 3]}}
    return _lung(folder, engine, questions=questions, rules=REFUSALS, changes=changes, more=DIFFERENCE)


def noise(folder: Path, engine: str, questions: Sequence[str] = ()) -> Ended:
    """Answers under differential privacy, for which each hospital's ledger is charged."""
    federation = write(
        folder, "lung", lung(), policy={"privacy": {"lung": BUDGET}}, keys=engine == DEPLOYMENT, **LUNG
    )
    return _ask(folder, _job(folder, HERE / "private.yaml", questions), federation, engine)


def smoking(folder: Path, engine: str, questions: Sequence[str] = ()) -> Ended:
    """Odds of lung cancer for smokers in eight cities."""
    federation = write(
        folder,
        "smoking",
        cities(),
        rule={"purpose": "research", "min_cohort": 5},
        catalogue={"levels": {"smokes": [0, 1], "cancer": [0, 1]}},
        keys=engine == DEPLOYMENT,
    )
    return _ask(folder, _job(folder, HERE / "cities.yaml", questions), federation, engine, cities())


def regions(folder: Path, engine: str, path: Path, questions: Sequence[str] = ()) -> Ended:
    """Survival with breast cancer in six regions.

    Args:
        folder, engine, questions: As for the other parts.
        path: TCGA-BRCA's clinical table.
    """
    sites = breast(path)
    catalogue = {"levels": {"treated": [0, 1]}, "units": {"time": "days", "age": "years"}}
    federation = write(
        folder,
        "breast",
        sites,
        rule={"purpose": "research", "min_cohort": 5},
        catalogue=catalogue,
        keys=engine == DEPLOYMENT,
    )
    return _ask(folder, _job(folder, HERE / "breast.yaml", questions), federation, engine, sites)


PARTS: dict[str, Callable[[Path, str], Ended]] = {
    "sums": sums,
    "alone": alone,
    "refusals": refusals,
    "noise": noise,
    "cities": smoking,
}
"""By the word on the command line; `breast` needs a file."""


def _lung(
    folder: Path,
    engine: str,
    *,
    questions: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    rules: Mapping[str, Mapping[str, Any]] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Ended:
    federation = write(folder, "lung", lung(), rules=rules, keys=engine == DEPLOYMENT, **LUNG)
    job = _job(folder, CONFIGS / "jobs" / "lung_survival.yaml", questions, changes, more)
    return _ask(folder, job, federation, engine, lung())


def _job(
    folder: Path,
    source: Path,
    questions: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """A job's file in the folder: of some of its questions and more, with other keys."""
    told: dict[str, Any] = yaml.safe_load(source.read_text(encoding="utf-8"))
    asked = {name: told["ask"][name] for name in questions or told["ask"]}
    made = {**told, "ask": {**asked, **(more or {})}, **(changes or {})}
    path = folder / source.name
    path.write_text(yaml.safe_dump(made, sort_keys=False), encoding="utf-8")
    return path


def _ask(folder: Path, path: Path, federation: Path, engine: str, sites: Sites | None = None) -> Ended:
    """Run the job, and compare each answer with the rows of those who are in it."""
    job = load_job(path)
    if not isinstance(job, AnalyticsJob):
        raise JobError(f"{path.name} is a job of kind {job.kind}; allowed: analytics")
    number = 1 + sum(1 for _ in folder.glob("run-*"))
    run = fedcore.run(path, federation, engine=engine, folder=folder / f"run-{number}")  # type: ignore[arg-type]
    told = run.json
    answers = answers_of(told)
    left_out = {str(each["party"]): str(each["reason"]) for each in told["left_out"]}
    compared: list[Compared] = []
    if sites is not None and find_spec("statsmodels") is not None:
        for name, answer in answers.items():
            if answer.answered:
                rows, places = pooled(sites, [each for each in sites if each not in taking_part(answer)])
                compared += check(job, name, answer, rows, places)
    for curves in sorted(run.folder.glob("answers/*-curves.svg")):
        shutil.copyfile(curves, folder / curves.name)
    return Ended(run.folder, job, answers, left_out, tuple(compared))


def taking_part(answer: Answered) -> set[str]:
    """The sites whose rows are in an answer."""
    return set(answer.sites) - {party for party, _ in answer.left_out}


def show(title: str, ended: Ended, console: Console) -> None:
    """Print the answers beside the pooled ones, what was kept back, and who is not in them."""
    console.rule(title)
    for name, reason in ended.left_out.items():
        console.print(f"[yellow]{name}[/] takes no part: {reason}", highlight=False)
    if ended.compared:
        console.print(_beside(ended.compared))
    for name, answer in ended.answers.items():
        if not answer.answered:
            console.print(f"[yellow]{name}[/] has no answer: {answer.reason}", highlight=False)
            continue
        if answer.noise is not None or answer.suppressed:
            console.print(f"[bold]{name}[/]", *map(shown, answer.tables[:1]), sep="\n")
        together: dict[str, list[str]] = {}
        for party, reason in answer.left_out:
            together.setdefault(reason, []).append(party)
        for reason, parties in together.items():
            console.print(f"{name} is without [yellow]{', '.join(parties)}[/]: {reason}", highlight=False)
    console.print(f"files: {ended.folder / 'answers'}", highlight=False)


def _beside(compared: Sequence[Compared]) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("question", "number", "sites", "pooled", "difference"):
        side: Literal["left", "right"] = "left" if head in ("question", "number") else "right"
        made.add_column(head, no_wrap=head != "number", justify=side)
    before = ""
    for each in compared:
        kept = each.answer is SUPPRESSED
        far = each.end if kept or each.end else f"{each.difference:.0e}"
        made.add_row(
            each.question if each.question != before else "",
            each.what,
            "suppressed" if kept else f"{each.answer:.6g}",
            f"{each.pooled:.6g}",
            far if each.holds else f"[red]{far}[/] no",
        )
        before = each.question
    return made


def show_ledgers(folder: Path, console: Console) -> None:
    """Print what is left of each hospital's budget."""
    from fedcore.participant.budgets import site_ledger

    made = Table("hospital", "epsilon spent", "left", box=box.SIMPLE_HEAD, pad_edge=False)
    for file in sorted(folder.glob("hospital-*.yaml")):
        ledger = site_ledger(load_participant(file), "lung")
        if ledger is not None:
            account = ledger.account()
            spent, left = float(account.spent.amount), float(account.budget.amount - account.spent.amount)
            made.add_row(file.stem, f"{spent:g}", f"{left:g}")
    console.print(made)


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts that are named, or all; 1 when a number is not what was promised, an error's code when one stopped."""
    told = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    told.add_argument("parts", nargs="*", choices=[[], *PARTS, "breast"], help="all when none is named")
    told.add_argument(
        "--folder", type=Path, default=Path("runs") / "hospital-survival", help="where files go"
    )
    told.add_argument("--tcga", type=Path, help="TCGA-BRCA's clinical table, as FLamby has it")
    told.add_argument("--engine", choices=["embedded", "simulation", DEPLOYMENT], default="embedded")
    given = told.parse_args(words)
    parts = given.parts or [*PARTS, *(["breast"] if given.tcga else [])]
    if "breast" in parts and given.tcga is None:
        told.error("breast needs --tcga FILE")
    console, held = Console(), True
    if find_spec("statsmodels") is None:
        console.print(
            "statsmodels is not installed, so there is nothing to compare with: pip install statsmodels"
        )
    for part in parts:
        folder = given.folder / part
        try:
            ended = (
                regions(folder, given.engine, given.tcga)
                if part == "breast"
                else PARTS[part](folder, given.engine)
            )
        except FedcoreError as error:
            console.print(f"{part}: {error}", style="red", highlight=False, markup=False)
            return error.exit_code
        title = (regions if part == "breast" else PARTS[part]).__doc__ or ""
        show(f"{part}: {title.splitlines()[0]}", ended, console)
        if part == "noise":
            show_ledgers(folder, console)
        held = held and ended.holds
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
