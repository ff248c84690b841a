"""Who is due and who has had enough: how often an owner takes part in any window of rounds.

Being chosen at least so often in every full window gives each owner a last round by which it must be chosen again.
Rounds have `pick` places, so that many owners with the same last round must be spread over the rounds before it: of
those due within d rounds, all but `pick * d` are needed now, the most urgent first. Where more are due at once than
there are places, as after a rule is made stricter, the most urgent take them all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fedcore.errors import JobError
from fedcore.network.policy import Fairness


def due_and_barred(
    history: Sequence[Collection[str]], owners: Collection[str], rule: Fairness, pick: int
) -> tuple[frozenset[str], frozenset[str]]:
    """The owners whom fairness needs in the next round, and those whom it keeps out.

    Args:
        history: Who took part in the rounds so far, the oldest first; only the last `window - 1` count.
        owners: All who could take part.
        pick: Places of a round.

    Raises:
        JobError: So many owners cannot all be chosen so often.
    """
    if rule.least * len(owners) > pick * rule.window:
        raise JobError(
            f"fairness: {len(owners)} owners {rule.least} times each do not fit into {rule.window} rounds of {pick}; "
            f"lower fairness.min_rate to at most {pick / max(1, len(owners)):.3g}, or raise participants.pick"
        )
    recent = [frozenset(round_) for round_ in history[max(0, len(history) - rule.window + 1) :]]
    taken = {owner: sum(owner in round_ for round_ in recent) for owner in owners}
    barred = frozenset(owner for owner, count in taken.items() if count >= rule.most)
    if rule.least == 0:
        return frozenset(), barred
    jobs = sorted((left, owner) for owner in owners for left in _rounds_left(owner, recent, rule))
    needed = max(position - pick * left for position, (left, _) in enumerate(jobs, start=1))
    urgent = list(dict.fromkeys(owner for _, owner in jobs))
    at_once = len({owner for left, owner in jobs if left == 0})
    return frozenset(urgent[: min(pick, max(needed, at_once, 0))]), barred


def _rounds_left(owner: str, recent: Sequence[Collection[str]], rule: Fairness) -> list[int]:
    """For each time that it must be chosen: in how many rounds from the next at the latest; 0 is the next itself.

    A round in which it took part has to be made up for when it leaves the window; what is missing from the first
    full window has to be there by its end.
    """
    rounds = [index for index, round_ in enumerate(recent) if owner in round_][-rule.least :]
    missing = rule.least - len(rounds)
    last = [rule.window - missing + step for step in range(missing)] + [
        index + rule.window for index in rounds
    ]
    return [max(0, index - len(recent)) for index in sorted(last)]
