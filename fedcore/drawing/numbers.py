"""Numbers as people read them: metrics, counts, amounts of data, durations."""

from __future__ import annotations

import math

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
_ACRONYMS = frozenset({"auc", "roc_auc", "f1", "r2", "mse", "rmse", "mae", "mape", "prauc", "pr_auc", "mcc"})


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


def percent_text(value: float | None, digits: int = 1) -> str:
    """A share as per cent: `22.1 %`."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.{digits}f}\u202f%".replace("-", "−")


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
    return _NUMBERS[count] if 0 <= count < len(_NUMBERS) else count_text(count)


def people(count: int, noun: str = "participant") -> str:
    """A count with its noun: `five participants`, `one participant`, `1 000 participants`."""
    number = number_word(count)
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"
