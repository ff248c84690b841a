"""The steps of a vertical job after the rows are agreed, at one party: each does its part and leaves it in a folder.

    bin      variables.json   bins and weights of evidence (`fedcore.vertical.woe`)
    select   selection.json   which variables stay, and why others went (`fedcore.vertical.selection`)
    model    model.json, ...  this party's part of a joint model (`fedcore.vertical.model_step`)
    score    scores.npz       at the label holder: joint scores of all rows (`fedcore.vertical.score_step`)
    report   report.html, ... what the party shows and keeps (`fedcore.vertical.report_step`)

A step needs the folders of those before it, and the other parties at the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from crypto.channel import Channel
from fedcore.errors import JobError
from fedcore.jobs.reveals import BIN, SELECT
from fedcore.jobs.vertical import VerticalJob
from fedcore.trust.identity import Identity
from fedcore.vertical.evidence import WoeResult
from fedcore.vertical.results import MatchReport
from fedcore.vertical.selection_rules import Selection
from fedcore.vertical.state import State, read_json, write_json
from fedcore.vertical.steps import MODEL, REPORT, SCORE
from fedcore.vertical.table import Table

Watch = Callable[[str, int, int], None]

VARIABLES = "variables.json"
SELECTION = "selection.json"


@dataclass(frozen=True, eq=False)
class Party:
    """One party in the middle of a step.

    Args:
        name: Its name.
        job, run: What is done.
        channels: To the others that it talks with, by name.
        table: Its rows, in the agreed order.
        state: What it kept of the steps before.
        folder: Where this step's files go.
        watch: Told the progress.
        match: How its rows met those of the others.
        hashes: What to SHA-256, of inputs.
        identity: Signs its models; nobody when None.
    """

    name: str
    job: VerticalJob
    run: str
    channels: Mapping[str, Channel]
    table: Table
    state: State
    folder: Path
    watch: Watch
    match: MatchReport
    hashes: Mapping[str, str]
    identity: Identity | None = None

    @property
    def holds(self) -> bool:
        """Whether it has the label."""
        return self.name == self.job.label.party

    @property
    def to_partners(self) -> list[Channel]:
        """The label holder's channels, in the order of the job."""
        return [self.channels[name] for name in self.job.partners]

    @property
    def to_holder(self) -> Channel:
        """A partner's channel to the label holder."""
        return self.channels[self.job.label.party]

    @property
    def first(self) -> bool:
        """Whether it is the first partner."""
        return self.job.partners[0] == self.name

    @property
    def among_partners(self) -> list[Channel]:
        """Of the first partner: to each other partner; of another one: to the first."""
        if self.holds:
            return []
        others = self.job.partners[1:] if self.first else self.job.partners[:1]
        return [self.channels[name] for name in others]

    def variables(self) -> WoeResult:
        """What step `bin` left."""
        return WoeResult.from_dict(read_json(self.state.of(BIN) / VARIABLES))

    def selection(self) -> Selection:
        """What step `select` left."""
        return Selection.from_dict(read_json(self.state.of(SELECT) / SELECTION))


def do(step: str, party: Party) -> None:
    """Do a step; its files are in the party's folder then.

    Args:
        step: After `align`.
        party: Who, and with whom.

    Raises:
        FedcoreError: The data cannot serve, a party went away, or a protocol failed.
        ProtocolError: A message was not what it must be.
    """
    if step == BIN:
        _bin(party)
    elif step == SELECT:
        _select(party)
    elif step.startswith(MODEL):
        from fedcore.vertical.model_step import fit

        fit(step.removeprefix(MODEL), party)
    elif step == SCORE:
        from fedcore.vertical.score_step import score

        score(party)
    elif step == REPORT:
        from fedcore.vertical.report_step import report

        report(party)
    else:
        raise JobError(f"the step {step!r} is not one of a vertical job")


def _bin(party: Party) -> None:
    from fedcore.vertical.woe import woe_label_holder, woe_partner

    settings = party.job.bin
    if party.holds:
        found = woe_label_holder(
            party.to_partners,
            party.table,
            settings,
            watch=party.watch,
            owner=party.name,
            partners=party.job.partners,
        )
    else:
        found = woe_partner(party.to_holder, party.table, settings, party.watch, owner=party.name)
    write_json(party.folder / VARIABLES, found.as_dict())


def _select(party: Party) -> None:
    from fedcore.vertical.selection import select_label_holder, select_partner

    variables, settings = party.variables(), party.job.select
    if party.holds:
        found = select_label_holder(
            party.to_partners, variables, party.table, settings, party.watch, partners=party.job.partners
        )
    else:
        found = select_partner(party.to_holder, variables, party.table, settings, party.watch)
    write_json(party.folder / SELECTION, found.as_dict())
