"""What a vertical job shows of one party to the others, so that the party's policy can be asked before it begins."""

from __future__ import annotations

from fedcore.errors import JobError
from fedcore.jobs.vertical import Boosting, Logistic, SplitNetwork, VerticalJob

BIN, SELECT = "bin", "select"


def is_binary(job: VerticalJob) -> bool:
    """Whether the label is an event, 0 or 1.

    Raises:
        JobError: Some models need an event and others a number, or a model wants bins where there is no event.
    """
    kinds = {name: _wants(model) for name, model in job.models.items()}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise JobError(
            f"models: they do not predict the same kind of label ({told}); put them into two jobs",
            step="prepare",
        )
    binary = "0 or 1" in kinds.values()
    for name, model in job.models.items():
        if not binary and isinstance(model, Logistic) and model.on == "woe":
            raise JobError(
                f"models.{name}: weights of evidence need a label of 0 or 1; set on: values for link {model.link}",
                step="prepare",
            )
    return binary


def _wants(model: Logistic | Boosting | SplitNetwork) -> str:
    if isinstance(model, Logistic):
        return "0 or 1" if model.link == "logistic" else "a number"
    if isinstance(model, Boosting):
        return {"binary": "0 or 1", "regression": "a number", "multiclass": "classes"}[model.loss]
    return "0 or 1"


def learned_by(job: VerticalJob, party: str) -> list[tuple[str, str]]:
    """What others learn of a party's data in the whole job: a word of a policy's `reveal`, and who.

    Args:
        job: The job.
        party: One of its parties.
    """
    holder = job.label.party
    others = [name for name in job.parties if name != party]
    told = [("rows", name) for name in others]
    binary = is_binary(job)
    networks = any(isinstance(model, SplitNetwork) for model in job.models.values())
    linear = any(isinstance(model, Logistic) for model in job.models.values())
    # The two that set up the optimiser of a linear model see the second moments of all columns.
    looking = [name for name in (holder, job.partners[0]) if linear and name != party]
    trees = any(isinstance(model, Boosting) for model in job.models.values())
    told += [("splits", name) for name in others if trees]
    if party == holder:
        told += [("woe", name) for name in others if binary]
        told += [("correlation", name) for name in looking]
        told += [("activations", name) for name in others if networks]
        return told
    if binary or trees:
        told.append(("totals", holder))
    seeing = dict.fromkeys([*([holder] if binary else []), *looking])
    told += [("correlation", name) for name in seeing]
    told += [("activations", holder)] if networks else []
    # Of trees the splits are what makes the score.
    told += [("scores", holder)] if linear else []
    return told


def asked_columns(job: VerticalJob, party: str) -> list[str] | None:
    """Columns that are read of a party; None when all are."""
    own = job.parties[party]
    if own.columns is None:
        return None
    more = []
    if party == job.label.party:
        more.append(job.label.column)
        if job.split.out_of_time is not None:
            more.append(job.split.out_of_time.column)
    return list(dict.fromkeys([*own.keys, *own.columns, *more]))
