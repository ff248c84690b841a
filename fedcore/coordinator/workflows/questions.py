"""One question of an analytics job after the other, asked of the same participants.

keys     values of groups that nobody declared, where sites tell them
admit    each site looks at the question with its policy       those that refuse it are left out, and shown
check    sizes of what it has in common with earlier ones      under a protected sum, before anything is answered
rounds   parts of the sites, summed                            until the question is answered, over the same sites
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict

from fedcore.analytics import overlap_sums, questions
from fedcore.analytics.question import Agreed, Part, State
from fedcore.coordinator.answered import Answered
from fedcore.coordinator.answering import (
    Meeting,
    dtypes_of,
    empty_source,
    explain_unlike,
    replies_of,
    told_of,
    total_of,
)
from fedcore.coordinator.grids.cohort import CohortGrid
from fedcore.coordinator.grids.evidence import QUESTION, EvidenceGrid, Phase
from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.coordinator.grids.secure_account import Account
from fedcore.coordinator.workflows.settings import Settings
from fedcore.coordinator.workflows.sums import sums_grid
from fedcore.errors import FedcoreError, JobError, PeerLost, PolicyRefused, ProtocolFailed, error_kind
from fedcore.flower import NDArray, arrays_in, ndarrays
from fedcore.jobs.analytics import AnalyticsJob
from fedcore.jobs.request import ADMIT, TOTALS, AnalyticsRequest
from fedcore.participant.analytics import EARLIER, KEYS, ROUND
from fedcore.participant.answer_costs import fewest
from fedcore.participant.private_answers import entries_of, plan_of
from fedcore.privacy.answers import statement, variance_of

log = logging.getLogger("fedcore.coordinator")

MOST_ROUNDS = 200
OPENING = ("confirm", "reveal")
"""Stages of a protected sum at which a participant's part is in it already."""


class Desk:
    """Asks one question after the other, of the same participants."""

    def __init__(
        self,
        job: AnalyticsJob,
        request: AnalyticsRequest,
        cohort: CohortGrid,
        evidence: EvidenceGrid,
        meeting: Meeting,
        settings: Settings,
    ) -> None:
        self.job, self.request, self.cohort = job, request, cohort
        self.evidence, self.meeting, self.settings = evidence, meeting, settings
        self._grids: dict[tuple[tuple[int, ...], int], SecureAggregationGrid] = {}
        if job.protection.on:
            # Refused before anything is asked, where they are too few.
            self._sums_over(list(meeting.members), request)

    def ask(self, name: str) -> Answered:
        """What became of a question; an error is kept in it."""
        made, began = Answered(), time.monotonic()
        try:
            self._ask(name, made)
        except FedcoreError as error:
            log.warning("%s: %s", name, error)
            made.error = error
        made.seconds = time.monotonic() - began
        return made

    def _ask(self, name: str, made: Answered) -> None:
        try:
            agreed = self._with_keys(name, made)
            question = made.asked = questions.build(self.job.ask[name], agreed)
        except JobError as error:
            raise explain_unlike(error, self.meeting.warnings) from None
        if agreed.private and (lacks := question.lacks_for_privacy()):
            raise JobError(lacks, party="coordinator", step="question")
        request = self.request.model_copy(update={"name": name, "question": questions.to_json(question)})
        nodes, earlier = self._admit(request, made)
        request = request.model_copy(update={"cohort": len(nodes)})
        if earlier:
            sizes, _ = self._summed(request, {EARLIER: earlier}, nodes, made)
            overlap_sums.refuse_isolating(sizes, earlier, agreed.minimum, question.block)
        state, source = question.begin(), empty_source(agreed, question.columns)
        while not state.done:
            made.rounds += 1
            if made.rounds > MOST_ROUNDS:
                raise ProtocolFailed(f"no answer after {MOST_ROUNDS} rounds", party="coordinator", step=name)
            form = question.partial(source, State(told=state.told))
            sums, present = self._summed(request, {**state.told, ROUND: made.rounds}, nodes, made)
            if made.rounds > 1:
                self._refuse_others(nodes, present, made)
            self._refuse_few_rows(form, sums)
            noise = self._noise(request, form, len(present), made)
            total = total_of(sums, len(present), dtypes_of(form), noise)
            state = question.combine(total, state)
            if len(present) < len(nodes):
                # The next rounds are about the rows of this one.
                nodes = present
                request = request.model_copy(update={"cohort": len(nodes)})
        made.answer = question.answer(state)

    def _with_keys(self, name: str, made: Answered) -> Agreed:
        """What the sites agreed on, with the values of group columns that nobody declared but sites may tell."""
        missing = questions.keys_wanted(self.job.ask[name], self.meeting.agreed)
        if not missing:
            return self.meeting.agreed
        phase = self.evidence.begin(f"{QUESTION}{name}: keys", 0)
        asked = self.request.model_copy(update={"name": name, "state": {KEYS: list(missing)}})
        told = replies_of(self.evidence, asked, list(self.meeting.members), ADMIT, self.job.deadline)
        self._count(phase, made)
        if not told:
            first = phase.lost[0] if phase.lost else None
            raise JobError(
                f"no participant tells values of {', '.join(missing)}"
                + (f"; {first.party}: {first.reason}" if first else "")
                + ". Cure: declare them, in the participants' catalogues or in the job (levels)",
                step="question",
            )
        levels: dict[str, set[Any]] = {column: set() for column in missing}
        for about in told.values():
            for column, values in dict(about.get("levels") or {}).items():
                if column in levels:
                    levels[column].update(values)
        found = {
            column: tuple(sorted(values, key=lambda v: (str(type(v)), v)))
            for column, values in levels.items()
        }
        return replace(self.meeting.agreed, levels={**self.meeting.agreed.levels, **found})

    def _admit(
        self, request: AnalyticsRequest, made: Answered
    ) -> tuple[list[int], list[overlap_sums.Earlier]]:
        """Nodes that take part in the question, and the questions that were answered to this asker before.

        Raises:
            FedcoreError: Too few are left; the first refusal says why.
        """
        phase = self.evidence.begin(f"{QUESTION}{request.name}: admit", 0)
        told = replies_of(self.evidence, request, list(self.meeting.members), ADMIT, self.job.deadline)
        self._count(phase, made)
        nodes = [node for node in self.meeting.members if told.get(node, {}).get("admitted") is True]
        made.sites = tuple(self.meeting.members[node] for node in nodes)
        made.left_out = list(phase.lost)
        least = self.job.participants.min
        if self.job.protection.on:
            least = max(least, self.job.sums.least_cohort)
        if len(nodes) < least:
            why = told_of(phase.lost) or "the others did not answer"
            kinds = {one.kind for one in phase.lost}
            kind = PolicyRefused if "PolicyRefused" in kinds else PeerLost
            raise kind(
                f"{len(nodes)} of at least {least} participants take part in this question. {why}",
                party=phase.lost[0].party if phase.lost else "coordinator",
                step="question",
            )
        lists = [[(str(name), int(count)) for name, count in told[node].get(EARLIER) or ()] for node in nodes]
        return nodes, overlap_sums.united(lists)

    def _summed(
        self,
        request: AnalyticsRequest,
        state: Mapping[str, Any],
        nodes: Sequence[int],
        made: Answered,
    ) -> tuple[dict[str, NDArray], list[int]]:
        """A round: the parts of the sites, added, and whose they are."""
        self.cohort.request = request.model_copy(update={"state": dict(state)})
        phase = self.evidence.begin(f"{QUESTION}{request.name}", made.rounds)
        messages = [Message(RecordDict({}), node, TOTALS) for node in nodes]
        try:
            if not self.job.protection.on:
                parts = self._parts(messages, phase)
                sums = _added(parts)
                present = [node for node in nodes if self.meeting.members[node] in parts]
            else:
                secure = self._sums_over(nodes, request)
                found = secure.sums(messages, self.job.deadline)
                made.account = secure.account.as_dict()
                if found is None:
                    raise _failed(secure.account.failed, phase)
                sums, present = found, self._in_sum(nodes, secure.account)
        finally:
            self._count(phase, made)
        made.summed = len(present)
        made.left_out += [
            one for one in phase.lost if one.party not in {each.party for each in made.left_out}
        ]
        return sums, present

    def _in_sum(self, nodes: Sequence[int], account: Account) -> list[int]:
        """Whose parts are in a protected sum."""
        members = self.meeting.members
        present = [node for node in nodes if account.dropped.get(members[node], "reveal") in OPENING]
        if len(present) != account.summed:
            raise ProtocolFailed(
                f"{account.summed} parts are in the sum, and {len(present)} participants sent one; it is not used",
                party="coordinator",
                step="question",
            )
        return present

    def _refuse_others(self, nodes: Sequence[int], present: Sequence[int], made: Answered) -> None:
        """Refuse a round of fewer sites than the one before: their sums do not go together, and the difference tells of one.

        Raises:
            PeerLost: One is missing.
        """
        gone = [self.meeting.members[node] for node in nodes if node not in present]
        if gone:
            raise PeerLost(
                f"{', '.join(gone)} dropped out in round {made.rounds}, and the rounds of a question are over the same sites. "
                "Cure: ask again",
                party=gone[0],
                step="question",
            )

    def _sums_over(self, nodes: Sequence[int], request: AnalyticsRequest) -> SecureAggregationGrid:
        """The grid that sums over these participants; keys are agreed on once for all questions to the same ones.

        Under differential privacy a sum has enough noise in it only if nearly all are in it, which the participants see to.
        """
        asked = self.job.sums
        least = asked.least_cohort
        if request.differential_privacy is not None:
            least = max(least, fewest(request))
        key = tuple(nodes), least
        if key not in self._grids:
            members = {node: self.meeting.members[node] for node in nodes}
            asked = asked.model_copy(update={"least_cohort": least})
            self._grids[key] = sums_grid(
                asked, self.cohort, self.evidence, members, self.job.deadline, self.settings
            )
        return self._grids[key]

    def _noise(self, request: AnalyticsRequest, form: Part, present: int, made: Answered) -> dict[str, float]:
        """Variance of the noise in each array of a sum; and what was promised goes into the answer."""
        if request.differential_privacy is None or made.asked is None:
            return {}
        plan = plan_of(request, entries_of(form), made.asked.rounds_for_privacy())
        made.privacy = statement(plan)
        return variance_of(plan, present)

    def _refuse_few_rows(self, form: Part, sums: Mapping[str, NDArray]) -> None:
        """Refuse a model that has too many parameters for its rows, of which it would tell too much.

        Raises:
            PolicyRefused: Fewer rows per parameter than a site asks for.
        """
        rows = float(np.sum(sums["rows"])) if form.parameters and "rows" in sums else None
        if rows is not None and rows < self.meeting.rows_per_parameter * form.parameters:
            raise PolicyRefused(
                f"the model has {form.parameters} parameters, for which the sites ask for at least "
                f"{self.meeting.rows_per_parameter * form.parameters:g} rows; there are fewer (policy.rules, "
                "rows_per_parameter). Cure: ask for fewer columns",
                party="coordinator",
                step="question",
            )

    def _parts(self, messages: list[Message], phase: Phase) -> dict[str, dict[str, NDArray]]:
        parts = {}
        for reply in self.cohort.stream(messages, self.job.deadline):
            if not reply.has_error() and len(arrays_in(reply.content)) == 1:
                parts[self.meeting.members[reply.metadata.src_node_id]] = ndarrays(
                    arrays_in(reply.content)[0]
                )
        if len(parts) < max(self.job.participants.min, 1):
            raise _failed(
                f"{len(parts)} of at least {self.job.participants.min} participants answered", phase
            )
        return {name: parts[name] for name in sorted(parts)}

    def _count(self, phase: Phase, made: Answered) -> None:
        for way in ("down", "up"):
            made.bytes[way] += phase.total(way)


def _failed(why: str, phase: Phase) -> FedcoreError:
    """The error of a round without a sum: that of the site, where all of those that are lost say the same kind."""
    lost = phase.lost
    told = told_of(lost)
    kinds = {one.kind for one in lost} - {"NoReply"}
    kind = error_kind(kinds.pop()) if len(kinds) == 1 else ProtocolFailed
    return kind(
        f"{why}. {told}" if told else why, party=lost[0].party if lost else "coordinator", step=phase.step
    )


def _added(parts: Mapping[str, Mapping[str, NDArray]]) -> dict[str, NDArray]:
    """Sums of the parts that came in the clear, by the names of the sites."""
    total: dict[str, NDArray] = {}
    for part in parts.values():
        for name, value in part.items():
            total[name] = total[name] + value if name in total else value.astype("float64")
    return total
