"""What secure aggregation was, in words: who was kept from what, as long as what holds, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedcore.coordinator.record import count, finite
from fedcore.coordinator.record_protection import Exchange, Protected
from fedcore.drawing.numbers import count_text, people

_HOW = {
    "secagg+": "Each participant masked its vector; the masks cancel in the sum (SecAgg+, Bell et al. 2020).",
    "threshold": "Each participant encrypted its vector under a joint key that nobody holds (Mouchet et al. 2021).",
    "ckks": "Each participant encrypted its vector under a key that the participants share (CKKS).",
    "paillier": "Each participant encrypted its vector under a key that the coordinator does not have (Paillier).",
}
_ACTIVE = "a coordinator that says anything to anybody about keys and who takes part"
_CURIOUS = "a coordinator that follows the protocol and looks closely at all it sees"
_ALONE = {
    "ckks": "that works together with no participant: each has the key",
    "paillier": "that works together with nobody who has the key",
}
_STAGES = {
    "keys": "public keys",
    "setup": "keys",
    "roster": "who meets whom, and shares of secrets",
    "shares": "shares of secrets",
    "masked": "the task’s own work, and masked vectors",
    "encrypted": "the task’s own work, and encrypted vectors",
    "confirm": "who is in the sum, confirmed by the participants to each other",
    "reveal": "shares that take the masks off the sum",
    "decrypt": "opening the sum",
}
_GROUPS = {
    "keys and shares": ("keys", "setup", "roster", "shares"),
    "work and vectors": ("masked", "encrypted"),
    "confirming who is in it": ("confirm",),
    "opening the sum": ("reveal", "decrypt"),
}
OTHER = "other stages"


def stage_text(name: str) -> str:
    """What a stage is for; empty where this version does not know it."""
    return _STAGES.get(name, "")


def stage_group(name: str) -> str:
    """Which of four kinds of stages it is, for a plot."""
    return next((group for group, names in _GROUPS.items() if name in names), OTHER)


def groups(names: Sequence[str]) -> list[str]:
    """The kinds of some stages, in the order of a round."""
    found = {stage_group(name) for name in names}
    return [group for group in (*_GROUPS, OTHER) if group in found]


def how_text(told: Protected) -> str:
    """How vectors were protected."""
    return _HOW.get(
        told.protocol, f"Protocol {told.protocol}, which this version of fedcore does not describe."
    )


def learned_text(told: Protected) -> str:
    """What the coordinator could learn."""
    known = "the weighted mean of updates and metrics over those in a sum, their number of examples in all, and who "
    known += "dropped out"
    if told.fewest is not None:
        known += f"; the smallest sum has {people(told.fewest)}"
    return f"The coordinator: {known}. Not the update, metrics or number of examples of one participant."


def assumption_text(told: Protected) -> str:
    """Against whom it holds, as far as the record tells."""
    if told.protocol not in _HOW:
        return "The record does not say."
    active = told.asked.get("adversary") == "active" and told.protocol not in _ALONE
    text = _ACTIVE if active else _CURIOUS
    if told.protocol in _ALONE:
        text += f" and {_ALONE[told.protocol]}"
    elif told.protocol == "threshold":
        needed = max((each.threshold or 0 for each in told.exchanges), default=0)
        holders = (
            f"fewer than {people(needed, 'holder')} of the key" if needed else "fewer holders than open a sum"
        )
        text += (
            f"; together with {holders} only if it follows the protocol"
            if active
            else f", together with {holders}"
        )
    elif (corrupt := told.asked.get("corrupt")) is not None:
        text += f", together with up to {percent(corrupt)} of the participants"
    return f"{text[0].upper()}{text[1:]}."


def limits_text(told: Protected) -> str:
    """What it takes for a sum to be given."""
    least, dropout = count(told.asked.get("least_cohort")), told.asked.get("dropout")
    words = []
    if least is not None:
        words.append(f"a sum has at least {people(least)}")
    if dropout is not None:
        words.append(f"up to {percent(dropout)} may drop out of a round")
    needed = sorted({each.threshold for each in told.exchanges if each.threshold})
    if needed:
        span = f"{needed[0]}" if len(needed) == 1 else f"{needed[0]} to {needed[-1]}"
        words.append(f"{span} have to help to open one")
    text = "; ".join(words)
    return text[:1].upper() + text[1:] + "." if text else "The record does not say."


def dropped_text(told: Protected) -> str:
    """How many dropped out, and at which stages."""
    if not told.dropped:
        return "Nobody."
    at: dict[str, int] = {}
    for _, _, stage in told.dropped:
        at[stage] = at.get(stage, 0) + 1
    stages = ", ".join(f"{stage} {count_text(number)}" for stage, number in at.items())
    who = len({party for _, party, _ in told.dropped})
    times = len(told.dropped)
    often = f", {count_text(times)} times" if times > who else ""
    return f"{people(who).capitalize()}{often}, by stage: {stages}."


def error_text(told: Protected) -> str:
    """How far a value of a mean can be off, and how many values were cut."""
    bound = told.error_bound
    if any(not each.failed and each.error_bound == 0.0 for each in told.exchanges):
        return "Sums are of whole numbers, and exact."
    clip = told.asked.get("clip")
    cut = f" beyond {clip:g}" if isinstance(clip, int | float) else ""
    text = (
        f"{count_text(told.clipped)} values were cut because they changed{cut or ' too much'}"
        if told.clipped
        else (f"No value was cut{f'; none changed{cut}' if cut else ''}")
    )
    sentences = [text, *([f"A value of a mean is off by less than {small(bound)}"] if bound else [])]
    if told.error is not None:
        sentences.append(f"The largest error that was measured is {small(told.error)}")
    return f"{'. '.join(sentences)}."


def promise_text(told: Mapping[str, Any]) -> str:
    """What was promised to each participant or to each row, in one clause.

    Args:
        told: `privacy` of a result, or `protection.differential_privacy` of a job.
    """
    epsilon, delta = finite(told.get("epsilon")), finite(told.get("delta"))
    level = "record" if told.get("level") == "record" else "client"
    return f"{level}-level, epsilon {_short(epsilon)}, delta {_short(delta)}"


def promise_rows(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Differential privacy of a run: name and text of what there is to say.

    Args:
        told: `privacy` of a result.
    """
    return _record_rows(told) if told.get("level") == "record" else _client_rows(told)


def _record_rows(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    done, paid = count(told.get("rounds_completed")), count(told.get("rounds_paid"))
    rows = [
        ("Promise", f"{promise_text(told)}, at each site, over the whole run"),
        ("Neighbours", f"{told.get('neighbours')}: one row of a site is there or is not"),
        ("Paid", f"all of it with the first round; {done} of {paid} rounds that were paid are completed"),
        ("Clip", f"{_short(finite(told.get('clip')))}, for the gradient of one row's loss"),
    ]
    sites = told.get("sites")
    for name, each in sites.items() if isinstance(sites, Mapping) else ():
        if isinstance(each, Mapping):
            noise, rate = finite(each.get("noise")), finite(each.get("sampling"))
            rows.append(
                (
                    f"Noise at {name}",
                    f"standard deviation {_short(noise)} clips in each of {count(each.get('steps'))} steps; a row is in a step "
                    f"with probability {_short(rate)}",
                )
            )
    return rows


def _client_rows(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    rule = {
        "replace-client": "one participant’s data are replaced by any other data",
        "add-remove-client": "what one participant sends is there or is not",
    }
    relation = str(told.get("neighbours"))
    local = told.get("mode") == "local"
    who = (
        "each participant added all of it to its own update"
        if local
        else "drawn in shares, so that nobody knows it all"
    )
    begun, paid = count(told.get("rounds_begun")), count(told.get("rounds_paid"))
    accountants = told.get("accountants")
    by = accountants if isinstance(accountants, Mapping) else {}
    noise, multiplier = finite(told.get("noise_in_clips")), finite(told.get("noise_multiplier"))
    clip = f"{_short(finite(told.get('clip')))}, for all weights of an update together"
    if told.get("clipping") == "adaptive":
        clip += f"; adaptive, {_short(finite(told.get('last_clip')))} at the end"
    rows = [
        ("Promise", f"{promise_text(told)}, over the whole run"),
        ("Neighbours", f"{relation}: {rule.get(relation, 'a relation this version does not describe')}"),
        ("Spent", f"epsilon {_short(finite(told.get('spent')))}: {begun} of {paid} rounds that were paid"),
        ("Clip", clip),
        (
            "Noise",
            f"standard deviation {_short(noise)} clips in each sum, {_short(multiplier)} times the sensitivity; {who}",
        ),
        (
            "Epsilon by",
            ", ".join(
                f"{title} {_short(finite(by.get(key)))}"
                for key, title in (("pld", "PLD"), ("fourier", "Fourier"), ("rdp", "RDP"))
            ),
        ),
    ]
    sampling = finite(told.get("sampling"))
    if sampling is not None and sampling < 1:
        rows.append(("Sampling", f"each took part in a round with probability {sampling:g}, by its own coin"))
    return rows


def outcome_text(told: Protected) -> str:
    """How many exchanges gave a sum, in one clause."""
    if not told.exchanges:
        return "no exchange stands in the record"
    failed = len(told.failed)
    if not failed:
        return f"all {count_text(len(told.exchanges))} exchanges gave a sum"
    return f"{count_text(failed)} of {count_text(len(told.exchanges))} exchanges gave no sum"


def sum_text(exchanges: Sequence[Exchange]) -> str:
    """How many of a round's participants are in its sums: `5/5`, or `train 4/5, evaluate none`."""
    found = {each.phase: "none" if each.failed else f"{each.summed}/{each.asked}" for each in exchanges}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{phase} {text}" for phase, text in found.items())


def small(value: float | None) -> str:
    """A small number: `5.2e-08`."""
    return "–" if value is None else f"{value:.1e}".replace("-", "−")


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def percent(share: Any) -> str:
    """A share of participants."""
    return f"{100 * share:g} %" if isinstance(share, int | float) else str(share)
