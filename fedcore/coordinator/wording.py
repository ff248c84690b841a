"""What a run says in words: its headline, its comparison, and its numbers.

The report, the terminal and `fedcore show` share these sentences, so that they cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedcore.coordinator.receipt import UPDATE_LAYERS, layers
from fedcore.coordinator.record import Record, mean
from fedcore.drawing.numbers import count_text, metric_text, number_word, people

_MODELS = {
    "logistic": "a logistic regression",
    "mlp": "a neural network (MLP)",
    "cnn": "a neural network (CNN)",
    "resnet18": "a neural network (ResNet-18)",
}
_PHASES = {
    "read": "reading the keys",
    "collapse": "sorting, collapsing duplicates",
    "meet": "meeting the other party",
    "agree": "agreeing on the settings",
    "vole": "exchanging masked keys",
    "vole-compact": "exchanging masked keys",
    "ecdh": "exchanging masked keys",
    "check": "checking planted keys and counts",
    "write": "writing the rows",
    "done": "done",
}
"""What a party does in each phase of an intersection."""
_STATUS = {
    "finished": "Finished",
    "stopped-early": "Stopped early",
    "partial": "Partly answered",
    "interrupted": "Interrupted",
    "refused": "Refused",
    "failed": "Failed",
}


def status_text(record: Record) -> str:
    """The run's status as a reader says it."""
    return _STATUS.get(record.status, record.status)


def model_text(record: Record) -> str:
    """What was trained: `a logistic regression`, or the author's class by its path."""
    task = record.job.get("task")
    task = task if isinstance(task, Mapping) else {}
    if task.get("use") == "image-segmenter":
        return "a U-Net"
    if task.get("use") in ("tabular-classifier", "image-classifier"):
        return _MODELS.get(str(task.get("model")), f"a {task.get('model')}")
    return f"the model of {task['use']}" if task.get("use") else "a model"


def phase_text(name: str) -> str:
    """What a party does in a phase of an intersection."""
    return _PHASES.get(name, name)


def headline(record: Record) -> str:
    """The run in one sentence: what was done, by whom, the result, and what was protected."""
    if record.kind == "psi":
        return _intersection(record)
    if record.kind == "vertical":
        return _joint(record)
    if record.kind == "analytics":
        from fedcore.coordinator.wording_analytics import headline as answered

        return answered(record)
    who = people(len(record.members)) if record.members else "the participants"
    task = record.job.get("task")
    target = task.get("target") if isinstance(task, Mapping) else None
    what = model_text(record) + (f" to predict “{target}”" if target else "")
    if record.rows:
        what += f" from {count_text(record.rows)} rows"
    done = len(record.rounds)
    if not done:
        return _not_trained(record, who, what)
    if record.status in ("finished", "stopped-early"):
        when = f" in {people(done, 'round')}"
    else:
        planned = f"{number_word(done)} of {record.planned_rounds} rounds" if record.planned_rounds else ""
        verb = {"interrupted": "was interrupted", "failed": "failed"}.get(record.status, "ended")
        when = f", until the run {verb} after {planned or people(done, 'round')},"
    lead = f"{who} trained {what}{when}"
    lead = lead[0].upper() + lead[1:]
    return f"{lead}{_reached(record)}; {_protected(record)}."


def _intersection(record: Record) -> str:
    parties = record.job.get("parties")
    who = _and([str(name) for name in parties]) if isinstance(parties, Mapping) else "two parties"
    reveal = record.job.get("reveal")
    reveal = reveal if isinstance(reveal, Mapping) else {}
    to = _and([str(name) for name in reveal.get("to") or ()])
    what = (
        "how many keys they share"
        if reveal.get("what") == "cardinality"
        else "which of their rows they share"
    )
    if record.status != "finished":
        verb = {"refused": "was refused", "interrupted": "was interrupted"}.get(record.status, "failed")
        where = f" at {record.error['party']}" if record.error.get("party") else ""
        return f"No result: {who} were to find {what}, but the run {verb}{where}."
    found = record.raw.get("intersection")
    number = f", {count_text(found)} keys" if isinstance(found, int) else ""
    place = "keys and rows stayed at the parties"
    if record.engine != "deployment":
        ran = "in simulation" if record.engine == "simulation" else "on one machine"
        place = f"both ran {ran} (engine {record.engine})"
    return f"{who} found {what}{number}; {to} learned it; {place}."


def _joint(record: Record) -> str:
    parties, models = record.job.get("parties"), record.job.get("models")
    who = _and([str(name) for name in parties]) if isinstance(parties, Mapping) else "several parties"
    names = [str(name) for name in models] if isinstance(models, Mapping) else []
    label = record.job.get("label")
    of = f" of “{label['column']}”" if isinstance(label, Mapping) and label.get("column") else ""
    what = f"{people(len(names), 'joint model')}{of} ({_and(names)})" if names else f"joint models{of}"
    if record.status != "finished":
        verb = {"refused": "was refused", "interrupted": "was interrupted"}.get(record.status, "failed")
        where = f" at {record.error['party']}" if record.error.get("party") else ""
        return f"No result yet: {who} were to build {what}, but the run {verb}{where}."
    place = "columns, labels, models and scores stayed at the parties"
    if record.engine != "deployment":
        ran = "in simulation" if record.engine == "simulation" else "on one machine"
        place = f"all ran {ran} (engine {record.engine})"
    return f"{who} built {what}; {place}."


def comparison(record: Record) -> dict[str, float | None]:
    """The primary metric `alone` (mean over sites), `federated` and `pooled`; None where unknown."""
    metric, base = record.primary, record.baselines
    if base is None:
        reached = record.final.get(metric, record.final_central.get(metric))
        return {"alone": None, "federated": reached, "pooled": None}
    return {
        "alone": mean(values[metric] for values in base.local.values() if metric in values),
        "federated": base.federated.get(metric, record.final.get(metric)),
        "pooled": base.pooled.get(metric),
    }


def _not_trained(record: Record, who: str, what: str) -> str:
    verb = {"refused": "was refused", "failed": "failed", "interrupted": "was interrupted"}.get(
        record.status, "ended"
    )
    where = f" at {record.error['party']}" if record.error.get("party") else ""
    planned = f"{who} {'was' if len(record.members) == 1 else 'were'} to train {what}"
    return f"No model was trained: {planned}, but the run {verb}{where} before its first round was complete."


def _reached(record: Record) -> str:
    metric, numbers = record.primary, comparison(record)
    federated = numbers["federated"]
    if not metric or federated is None:
        return " and measured no metric"
    if not math.isfinite(federated):
        return f", but its {metric} is not a number: training diverged"
    against = []
    each = "each " if len(record.members) != 1 else ""
    if numbers["alone"] is not None:
        against.append(f"{metric_text(numbers['alone'], 3)} when {each}trained alone")
    if numbers["pooled"] is not None and math.isfinite(numbers["pooled"]):
        against.append(f"{metric_text(numbers['pooled'], 3)} with all rows pooled")
    against_text = f", against {' and '.join(against)}" if against else ""
    return f" and reached {metric} {metric_text(federated, 3)}{against_text}"


def _protected(record: Record) -> str:
    found = [layer for layer in layers(record) if layer.name in UPDATE_LAYERS]
    on = [layer.name for layer in found if layer.state == "on"]
    off = [layer.name for layer in found if layer.state != "on"]
    if record.engine == "deployment":
        place = "rows stayed at the sites, and "
    elif record.engine == "unknown":
        place = ""
    else:
        who = "it" if len(record.members) == 1 else "all"
        ran = "ran in simulation" if record.engine == "simulation" else "ran on one machine"
        place = f"{who} {ran} (engine {record.engine}), and "
    how = []
    if on:
        how.append(f"model updates travelled under {_and(on)}")
    if off:
        how.append(f"without {_or(off)}" if on else f"model updates travelled without {_or(off)}")
    return place + ", but ".join(how)


def _and(words: list[str]) -> str:
    return " and ".join(words)


def _or(words: list[str]) -> str:
    return " or ".join(words)
