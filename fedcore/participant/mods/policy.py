"""The site's own policy, enforced at the site: denied unless a rule allows all that is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedcore.errors import JobError, PolicyRefused, did_you_mean
from fedcore.jobs.job import BUILT_IN_TASKS, CustomTask, ImageTask
from fedcore.jobs.participant import Participant, Rule
from fedcore.jobs.psi import COORDINATOR
from fedcore.jobs.request import (
    RECORD,
    AnalyticsRequest,
    PsiRequest,
    Request,
    TrainRequest,
    VerticalRequest,
    parse_request,
)
from fedcore.jobs.reveals import asked_columns as vertical_columns
from fedcore.jobs.reveals import learned_by
from fedcore.participant.mods import policy_analytics

if TYPE_CHECKING:
    from fedcore.analytics.question import Question


def request_of(message: Message) -> Request:
    """The request in a message.

    Raises:
        JobError: There is none, or it is of another version.
    """
    record = message.content.get(RECORD)
    text = record.get("request") if isinstance(record, ConfigRecord) else None
    if not isinstance(text, str):
        raise JobError("the message carries no fedcore request; only fedcore's coordinator is served here")
    return parse_request(text)


def policy(resolve: Callable[[Context], Participant]) -> Mod:
    """The mod.

    Args:
        resolve: Gives the participant whose turn it is.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        check(resolve(context), request_of(message))
        return call_next(message, context)

    return mod


def check(participant: Participant, request: Request) -> Rule:
    """The rule that allows the request; where several do, the one that asks for the fewest rows.

    Raises:
        PolicyRefused: No rule covers all of it; the message says what the nearest rule lacks. Or it waits for a person at
            the site.
    """
    data = request.data_of(participant.name)
    if data is None:
        raise PolicyRefused(
            f"{participant.name} is no party of job {request.job!r}, so nothing is asked of it"
        )
    if data not in participant.catalogue:
        raise PolicyRefused(
            f"no data set {data!r} in the catalogue; {did_you_mean(data, participant.catalogue)}"
        )
    if isinstance(request, TrainRequest | AnalyticsRequest):
        _check_protection(participant, request)
        _check_private(participant, request)
    elif (budget := participant.policy.privacy.get(data)) is not None and request.kind in budget.required_for:
        raise PolicyRefused(
            f"{request.kind} on {data!r} leaves this site under differential privacy only (policy.privacy, required_for), "
            "and a job of this kind has none; the site's data office can take it out of required_for"
        )
    if isinstance(request, TrainRequest):
        _check_row_id(participant, request)
        _check_code(participant, request)
    if isinstance(request, VerticalRequest):
        _check_features(participant, request)
    if isinstance(request, AnalyticsRequest):
        return _check_analytics(participant, request)
    reasons = []
    allowing = []
    for rule in participant.policy.rules:
        reason = _lacking(rule, participant, request, data)
        if reason is None:
            allowing.append(rule)
        else:
            reasons.append(reason)
    if allowing:
        return min(allowing, key=lambda rule: rule.min_rows)
    raise _refused(request, data, reasons)


def _refused(request: Request, data: str, reasons: list[str]) -> PolicyRefused:
    because = "; ".join(dict.fromkeys(reasons)) or "the policy has no rules"
    return PolicyRefused(
        f"the site's policy does not allow {request.kind} on {data!r} for {request.purpose}: {because}. "
        "The site's data office can add a rule to policy.rules"
    )


def _check_analytics(participant: Participant, request: AnalyticsRequest) -> Rule:
    """As `check`; a person at the site may allow what no rule does."""
    question = policy_analytics.asked_question(request)
    policy_analytics.check_question(participant, request, question)
    allowing, lacking, reasons = [], [], []
    for rule in participant.policy.rules:
        elsewhere = _elsewhere(rule, request, request.data)
        found = [
            *_unlike(rule, request),
            *policy_analytics.lacks(rule, request, question),
        ]
        if elsewhere is not None:
            reasons.append(elsewhere)
        elif found:
            reasons += [clause for _, clause in found]
            lacking.append((rule, found))
        else:
            allowing.append(rule)
    if allowing:
        return policy_analytics.chosen(allowing, request, question)
    if request.state and question is None:
        # Values of keys: a person at the site decides on questions, and there is none yet.
        raise _refused(request, request.data, reasons)
    because = "; ".join(dict.fromkeys(reasons)) or "the policy has no rules"
    granted = policy_analytics.approved(
        participant, request, question, lacking or _unruled(participant, request, question), because
    )
    if granted is None:
        raise _refused(request, request.data, reasons)
    return granted


def _unruled(
    participant: Participant, request: AnalyticsRequest, question: Question | None
) -> list[tuple[Rule, list[policy_analytics.Lack]]]:
    """What a rule of defaults lacks, for a data set that no rule is for; where a person may allow anything."""
    approval = participant.policy.approval
    if approval is None or "any" not in approval.for_:
        return []
    rule = Rule(jobs=("analytics",), data=request.data)
    return [
        (
            rule,
            [*_unlike(rule, request), *policy_analytics.lacks(rule, request, question)],
        )
    ]


def _check_private(participant: Participant, request: TrainRequest | AnalyticsRequest) -> None:
    budget = participant.policy.privacy.get(request.data)
    if budget is None and isinstance(request, AnalyticsRequest) and request.differential_privacy is not None:
        # Noise is what cells are not kept back for: how little of it is enough is for the site to say.
        raise PolicyRefused(
            f"this site has no privacy budget for {request.data!r}, so that nothing says how much noise is enough "
            "(policy.privacy); ask without differential_privacy, or the site's data office states a budget"
        )
    if budget is None or request.kind not in budget.required_for:
        return
    if request.differential_privacy is None:
        raise PolicyRefused(
            f"{request.kind} on {request.data!r} leaves this site under differential privacy only (policy.privacy, "
            "required_for); set protection: {differential_privacy: ...} in the job"
        )


def _check_protection(participant: Participant, request: TrainRequest | AnalyticsRequest) -> None:
    own, asked = participant.policy.secure_aggregation, request.secure_aggregation
    what = "updates" if isinstance(request, TrainRequest) else "answers"
    if not request.protected:
        if own.required:
            raise PolicyRefused(
                f"{what} leave this site under secure aggregation only (policy.secure_aggregation, required); set "
                "protection: {secure_aggregation: secagg+} in the job"
            )
        return
    lacking = [
        f"{what} is {given}, at least {needed} is required"
        for what, given, needed in (
            ("least_cohort", asked.least_cohort, own.least_cohort),
            ("corrupt", asked.corrupt, own.corrupt),
        )
        if given < needed
    ]
    if own.adversary == "active" != asked.adversary:
        lacking.append(f"adversary is {asked.adversary}, active is required")
    if not _named(asked.protocol, own.protocols):
        lacking.append(f"protocol is {asked.protocol}, allowed are {_listed(own.protocols)}")
    if asked.protocol == "secagg+" and not _named(asked.cipher, own.ciphers):
        lacking.append(f"cipher is {asked.cipher}, allowed are {_listed(own.ciphers)}")
    if lacking:
        raise PolicyRefused(
            f"the job's secure aggregation protects less than this site requires: {'; '.join(lacking)} "
            "(policy.secure_aggregation)"
        )
    from fedcore.participant.mods.protocols.base import needs

    missing = needs(asked.protocol)
    if missing is not None:
        raise JobError(f"the site cannot take part in protection.secure_aggregation: {missing}")


def _check_row_id(participant: Participant, request: TrainRequest) -> None:
    """The classes of a target and the sums of a feature leave the site; whom a row is about must not."""
    row_id = participant.catalogue[request.data].row_id
    if row_id is not None and row_id in (request.task.target, *(_features(request) or ())):
        raise PolicyRefused(
            f"column {row_id!r} says whom a row of {request.data!r} is about (row_id in the catalogue), so it is "
            "neither a target nor a feature; choose another column"
        )


def _check_features(participant: Participant, request: VerticalRequest) -> None:
    """Whom a row is about may decide which rows match, and nothing else."""
    row_id = participant.catalogue[str(request.data_of(participant.name))].row_id
    if row_id is not None and row_id in (request.plan.parties[participant.name].columns or ()):
        raise PolicyRefused(
            f"column {row_id!r} says whom a row is about (row_id in the catalogue), so no model may use it; leave it "
            f"out of parties.{participant.name}.columns"
        )


def _check_code(participant: Participant, request: TrainRequest) -> None:
    modules = []
    if isinstance(request.task, CustomTask):
        modules.append(request.task.use.split(":")[0])
    # A named strategy has its client half, if any, in our own package.
    named = ":" not in request.strategy.use
    modules.append("strategies" if named else request.strategy.use.split(":")[0])
    if request.task.use in BUILT_IN_TASKS:
        modules.append("fedcore")
    for module in modules:
        allowed = participant.policy.code
        if not any(module == prefix or module.startswith(prefix + ".") for prefix in allowed):
            raise PolicyRefused(
                f"code of {module!r} may not run here; allowed: {', '.join(allowed) or 'none'}. "
                "The site's data office can add it to policy.code"
            )


def _elsewhere(rule: Rule, request: Request, data: str) -> str | None:
    """Why the rule is for other things altogether."""
    if request.kind not in rule.jobs:
        return f"jobs allowed are {', '.join(rule.jobs)}"
    return f"the rule is for data {rule.data!r}" if rule.data not in ("any", data) else None


def _unlike(rule: Rule, request: Request) -> Iterator[policy_analytics.Lack]:
    """What the rule lacks, whatever kind of job it is."""
    if rule.purpose not in ("any", request.purpose):
        yield "purpose", f"the purpose must be {rule.purpose!r}"
    if request.cohort < rule.min_cohort:
        yield "", f"the cohort has {request.cohort} participants, at least {rule.min_cohort} are required"
    if (
        isinstance(request, TrainRequest | AnalyticsRequest)
        and request.protected
        and request.secure_aggregation.least_cohort < rule.min_cohort
    ):
        yield (
            "",
            f"a protected sum must have at least {rule.min_cohort} participants (least_cohort in the job)",
        )


def _lacking(rule: Rule, participant: Participant, request: Request, data: str) -> str | None:
    reason = _elsewhere(rule, request, data) or next((clause for _, clause in _unlike(rule, request)), None)
    if reason is not None:
        return reason
    if rule.columns != "all":
        asked = _columns(participant, request)
        if asked is None:
            key = "task.features" if isinstance(request, TrainRequest) else "the party's columns"
            return f"only the columns {', '.join(rule.columns)} may be read; name {key}"
        beyond = [name for name in asked if name not in rule.columns]
        if beyond:
            return f"columns {', '.join(beyond)} may not be read (allowed: {', '.join(rule.columns)})"
    if isinstance(request, VerticalRequest):
        return _revealing_to_all(rule, participant, request)
    return _revealing(rule, participant, request) if isinstance(request, PsiRequest) else None


def _revealing_to_all(rule: Rule, participant: Participant, request: VerticalRequest) -> str | None:
    """What the rule lacks for what a vertical job shows of this site to the others."""
    for peer in request.plan.parties:
        if peer != participant.name and not _named(peer, rule.peers):
            return f"peer {peer!r} is not allowed (peers: {_listed(rule.peers)})"
    for what, who in learned_by(request.plan, participant.name):
        shown = getattr(rule.reveal, what)
        if not _named(who, shown):
            return f"{who!r} may not learn the {what} (reveal.{what}: {_listed(shown)})"
    return None


def _revealing(rule: Rule, participant: Participant, request: PsiRequest) -> str | None:
    """What the rule lacks for what a psi job shows to others."""
    peer, reveal = request.other(participant.name), request.reveal
    if not _named(peer, rule.peers):
        return f"peer {peer!r} is not allowed (peers: {_listed(rule.peers)})"
    if not _named(request.protocol, rule.protocols):
        return f"protocol {request.protocol!r} is not allowed (protocols: {_listed(rule.protocols)})"
    shown = rule.reveal.rows if reveal.what == "rows" else rule.reveal.cardinality
    if peer in reveal.to and not _named(peer, shown):
        return f"{peer!r} may not learn the {reveal.what} (reveal.{reveal.what}: {_listed(shown)})"
    # Whom `any` means are parties; the coordinator must be written out.
    counted = rule.reveal.cardinality
    if reveal.coordinator == "count" and (counted == "any" or COORDINATOR not in counted):
        return f"the coordinator may not learn how many match (reveal.cardinality: {_listed(counted)})"
    return None


def _named(word: str, allowed: str | tuple[str, ...]) -> bool:
    return allowed == "any" or word in allowed


def _listed(allowed: str | tuple[str, ...]) -> str:
    return allowed if isinstance(allowed, str) else ", ".join(allowed) or "none"


def _columns(participant: Participant, request: Request) -> list[str] | None:
    if isinstance(request, PsiRequest):
        return list(request.parties[participant.name].columns)
    if isinstance(request, VerticalRequest):
        return vertical_columns(request.plan, participant.name)
    return asked_columns(request) if isinstance(request, TrainRequest) else None


def asked_columns(request: TrainRequest) -> list[str] | None:
    """Columns the request reads; None when it asks for all."""
    features = _features(request)
    if features is None:
        return None
    return [*features, *([request.task.target] if request.task.target else [])]


def _features(request: TrainRequest) -> tuple[str, ...] | None:
    task = request.task
    return (task.image,) if isinstance(task, ImageTask) else task.features
