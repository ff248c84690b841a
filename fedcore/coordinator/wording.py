"""What a run says in words: its headline, its comparison, and its numbers.

The report, the terminal and `fedcore show` share these sentences, so that they cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedcore.coordinator.receipt import UPDATE_LAYERS, layers
from fedcore.coordinator.record import Record, mean

_NUMBERS = (
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
_MODELS = {
    "logistic": "a logistic regression",
    "mlp": "a neural network (MLP)",
    "cnn": "a neural network (CNN)",
    "resnet18": "a neural network (ResNet-18)",
}
_ACRONYMS = frozenset({"auc", "roc_auc", "f1", "r2", "mse", "rmse", "mae", "mape", "prauc", "pr_auc", "mcc"})
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
    "interrupted": "Interrupted",
    "refused": "Refused",
    "failed": "Failed",
}


def metric_text(value: float | None, digits: int = 4) -> str:
    """A metric: a fixed number of decimals in the usual range, exponent notation outside it."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not a number"
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{max(digits - 2, 1)}e}".replace("-", "−")
    return f"{value:.{digits}f}".replace("-", "−")


def metric_title(name: str) -> str:
    """A metric's name as a heading: `AUC`, `R2`, `Balanced accuracy`."""
    words = name.replace("_", " ")
    return words.upper() if name in _ACRONYMS else words[:1].upper() + words[1:]


def difference_text(value: float | None, digits: int = 4) -> str:
    """A difference, with its sign; one too small for the decimals is written with an exponent."""
    if value is None or not math.isfinite(value):
        return "–"
    if value and abs(value) < 0.5 * 10**-digits:
        text = f"{value:.1e}".replace("-", "−")
    else:
        text = metric_text(value, digits) if abs(value) >= 1 else f"{value:.{digits}f}".replace("-", "−")
    return text if text.startswith("−") else f"+{text}"


def count_text(value: float | None) -> str:
    """A whole number with a thin gap between thousands."""
    return "–" if value is None or not math.isfinite(value) else f"{round(value):,}".replace(",", "\u202f")


def bytes_text(value: float | None) -> str:
    """An amount of data in SI units."""
    if value is None or not math.isfinite(value):
        return "–"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.{0 if scaled >= 99.5 else 1 if scaled >= 9.95 else 2}f} {unit}"
    return f"{value:.0f} B"


def seconds_text(value: float | None) -> str:
    """A duration, to about two digits."""
    if value is None or not math.isfinite(value):
        return "–"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def number_word(count: int) -> str:
    """A count in words up to twelve, in digits above."""
    return _NUMBERS[count] if count < len(_NUMBERS) else count_text(count)


def people(count: int, noun: str = "participant") -> str:
    """A count with its noun: `five participants`, `one participant`, `1 000 participants`."""
    number = number_word(count)
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"


def status_text(record: Record) -> str:
    """The run's status as a reader says it."""
    return _STATUS.get(record.status, record.status)


def model_text(record: Record) -> str:
    """What was trained: `a logistic regression`, or the author's class by its path."""
    task = record.job.get("task")
    task = task if isinstance(task, Mapping) else {}
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
