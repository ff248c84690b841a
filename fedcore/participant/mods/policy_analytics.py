"""What a site's policy says to a question: which rule allows it, or which person may.

While a job is prepared nothing is asked yet, and only what is known is checked: who asks, why, of which data set, with how
many others, under which protection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedcore.errors import PolicyRefused
from fedcore.jobs.participant import Participant, Rule
from fedcore.jobs.request import AnalyticsRequest
from fedcore.trust import approvals

if TYPE_CHECKING:
    from fedcore.analytics.question import Question

Lack = tuple[str, str]
"""What a rule lacks: the word by which `policy.approval` may cover it, or "", and a clause."""
GRANTABLE = ("askers", "columns", "statistics", "purpose", "privacy")
"""Words of `policy.approval.for` that `any` stands for."""


def desk(participant: Participant) -> Path:
    """The file of the site's approvals."""
    return (participant.state or Path(".fedcore") / participant.name) / approvals.FILE


def asked_question(request: AnalyticsRequest) -> Question | None:
    """The question in a request; None while preparing.

    Raises:
        JobError: It is none.
    """
    if not request.question:
        return None
    from fedcore.analytics import questions

    return questions.read(request.question)


def check_question(participant: Participant, request: AnalyticsRequest, question: Question | None) -> None:
    """Refuse what no rule and nobody can allow.

    Raises:
        PolicyRefused: A column says whom a row is about, or the question says other things than the request around it.
    """
    if question is None:
        return
    row_id = participant.catalogue[request.data].row_id
    if row_id is not None and row_id in question.columns:
        raise PolicyRefused(
            f"column {row_id!r} says whom a row of {request.data!r} is about (row_id in the catalogue), so no question is "
            "over it: no group, condition, target or covariate; leave it out"
        )
    agreed = question.agreed
    for what, said, asked in (
        ("of data", agreed.data, request.data),
        ("protected", agreed.protected, request.protected),
        ("with noise", agreed.private, request.differential_privacy is not None),
    ):
        if said != asked:
            raise PolicyRefused(
                f"the question says {what}: {said}, the request around it {asked}; install the same version of fedcore at "
                "coordinator and participants"
            )


def lacks(rule: Rule, request: AnalyticsRequest, question: Question | None) -> Iterator[Lack]:
    """What a rule for analytics of this data set lacks for a request, beside purpose and cohort."""
    if request.least < rule.min_cohort:
        yield (
            "",
            f"an answer may be of {request.least} participants, at least {rule.min_cohort} are required "
            "(participants.min in the job)",
        )
    if rule.askers != "any" and request.asker not in rule.askers:
        yield "askers", f"{request.asker!r} may not ask (askers: {', '.join(rule.askers) or 'none'})"
    if rule.private == "required" and request.differential_privacy is None:
        yield (
            "privacy",
            "answers leave under differential privacy only (private: required); set protection: "
            "{differential_privacy: ...} in the job",
        )
    if question is None:
        return
    if question.agreed.minimum < rule.min_cell:
        yield (
            "",
            f"cells of {question.agreed.minimum} rows would be shown, at least {rule.min_cell} are required (min_cell)",
        )
    for word, allowed, asked in (
        ("columns", rule.columns, question.columns),
        ("statistics", rule.statistics, question.statistics),
    ):
        beyond = [each for each in dict.fromkeys(asked) if allowed != "all" and each not in allowed]
        if beyond:
            verb = "read" if word == "columns" else "computed"
            yield (
                word,
                f"{word} {', '.join(beyond)} may not be {verb} (allowed: {', '.join(allowed) or 'none'})",
            )


def chosen(allowing: Sequence[Rule], request: AnalyticsRequest, question: Question | None) -> Rule:
    """Of the rules that allow a request the one that holds for it: that with the smallest cells, then the fewest rows.

    While preparing it has the columns of all of them, since each may allow another question.
    """
    best = min(
        allowing,
        key=lambda each: (
            # Only one that tells keys can be asked for keys.
            question is None and each.keys == "declared",
            each.min_cell,
            each.min_rows,
            each.rows_per_parameter,
            each.small_cells == "never",
        ),
    )
    if question is not None or request.state:
        return best
    if any(each.columns == "all" for each in allowing):
        return best.model_copy(update={"columns": "all"})
    names = dict.fromkeys(name for each in allowing for name in each.columns)
    return best.model_copy(update={"columns": tuple(names)})


def approved(
    participant: Participant,
    request: AnalyticsRequest,
    question: Question | None,
    lacking: Sequence[tuple[Rule, Sequence[Lack]]],
    reasons: str,
) -> Rule | None:
    """The rule that holds for a request that a person at the site granted; None when nobody may grant it.

    Args:
        participant: The site.
        request: That no rule allows.
        question: In it; None while preparing, when what a person may grant later passes.
        lacking: What each rule for analytics of this data set lacks; when there is none, no rule is for it.
        reasons: All of that, for the person to read.

    Raises:
        PolicyRefused: It waits, was denied, or its grant is over.
    """
    approval = participant.policy.approval
    if approval is None:
        return None
    words = {*approval.for_, *(GRANTABLE if "any" in approval.for_ else ())}
    coverable = [(rule, found) for rule, found in lacking if all(word in words for word, _ in found)]
    if not coverable:
        return None
    rule = min(coverable, key=lambda each: (len(each[1]), -each[0].min_cell, -each[0].min_rows))[0]
    if question is None:
        # Of rows nothing is told before somebody at the site has looked.
        shown = {"columns": "all"} if "columns" in words and not request.state else {}
        return rule.model_copy(update={"keys": "declared", **shown})
    found = approvals.use(desk(participant), request.digest, _asked(request, question, reasons))
    if found.status == "granted":
        return rule
    short = found.hash[: approvals.SHOWN]
    raise PolicyRefused(
        {
            "waiting": f"the request with hash {short} waits for approval by {approval.by}",
            "denied": f"the request with hash {short} was denied by {found.by}"
            + (f" ({found.reason})" if found.reason else ""),
            "ended": f"the approval of the request with hash {short} ended at {found.until}",
            "used up": f"the approval of the request with hash {short} was for {found.uses} "
            f"run{'' if found.uses == 1 else 's'}, and is used up",
        }[found.status]
        + f": {reasons}. Cure: {approval.by} may grant it at the site (fedcore approvals grant PARTICIPANT_FILE {short}), "
        "then ask again",
        step=approvals.STEP,
    )


def _asked(request: AnalyticsRequest, question: Question, reasons: str) -> approvals.Asked:
    aggregation, noise = request.secure_aggregation, request.differential_privacy
    protection = (
        f"{aggregation.protocol}, only the sum over {request.least} sites or more is seen"
        if request.protected
        else "none, this site's answer is seen by itself"
    )
    if noise is not None:
        protection += (
            f"; differential privacy {noise.mode}, epsilon {noise.epsilon:g}, delta {noise.delta:g}, for each "
            f"{noise.neighbours}"
        )
    return approvals.Asked(
        asker=request.asker,
        purpose=request.purpose,
        data=request.data,
        text=question.text,
        columns=tuple(question.columns),
        statistics=tuple(question.statistics),
        protection=protection,
        lacking=reasons,
        run=request.run,
        job=request.job,
    )
