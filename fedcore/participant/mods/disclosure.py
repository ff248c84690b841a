"""The innermost layer of the gate: what of a site's part of an answer may be told, before noise and masks.

    seen by itself      no answer over few rows, none in which single rows stand out, none with many parameters for its
                        rows; cells of few rows are kept back
    in a protected sum  the sum is judged where it is made; a site whose policy says `small_cells: never` keeps its small
                        cells back here too
    with noise          all is told as it is: noise hides each row, and what is kept back would say something exactly

A cell that is kept back is 0 in the part and 1 in an array of its own, `hidden:<name>`, which is added over sites like any
other, so that whoever reads the sum knows that it lacks something. A part has these arrays whatever its rows are.

A site with few rows or none may take part in a protected sum: what it adds is not seen. With `small_cells: never` a site
that has a few rows takes part only where all that it tells stands in cells, which are then kept back; a model over a few
rows is refused, because a sum that quietly lacked them would be taken for whole.

What this does not hold against: arrays of a part that are no cells and go with none are told as they are, so a question
puts there nothing from which a cell could be reckoned. Totals over cells of one site that are told beside them are for
`fedcore.analytics.disclosure`; differences between questions for `fedcore.analytics.overlap` and `overlap_sums`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.analytics.question import Mask, Part
from fedcore.analytics.sums import Sums
from fedcore.errors import DataError, PolicyRefused, TaskFailed
from fedcore.jobs.participant import Rule

STEP = "disclosure"
HIDDEN = "hidden:"
"""Before the name of an array: where entries of it are kept back, 1, else 0; float64, of the same shape."""


def disclose(part: Part, rule: Rule, *, protected: bool, private: bool) -> Sums:
    """What of a part may go on to noise and masks.

    Args:
        part: Of this site, for one round.
        rule: That allows the request.
        protected: Whether only the sum over sites is seen.
        private: Whether noise is added here or to the sum.

    Returns:
        The part's arrays, cells that are kept back as 0; and without noise `hidden:<name>` for each array of cells and each
        that goes with one, in the part's order.

    Raises:
        PolicyRefused: The rule lets none of it be told.
        DataError: A number is not finite.
        TaskFailed: The part is none: its arrays and cells do not go together.
    """
    _refuse_odd(part.sums)
    if private:
        return dict(part.sums)
    if rule.private == "required":
        raise PolicyRefused(
            "answers leave under differential privacy only (policy.rules, private: required). Cure: "
            "protection: {differential_privacy: ...} in the job",
            step=STEP,
        )
    if not protected:
        _refuse_alone(part, rule)
    keeps = not protected or rule.small_cells == "never"
    masks = _masks(part, rule.min_cell if keeps else 0)
    if keeps and 0 < part.rows < rule.min_cell and set(part.sums) - set(masks):
        raise PolicyRefused(
            f"the question is over fewer than {rule.min_cell} rows here, and what it tells of them is not all in cells "
            f"that can be kept back; allowed: {rule.min_cell} rows or more, or none (policy.rules, min_cell, small_cells). "
            "Cure: ask of more rows, or leave this site out",
            step=STEP,
        )
    told = dict(part.sums)
    for name, mask in masks.items():
        told[name] = np.where(mask, np.zeros((), told[name].dtype), told[name])
    return told | {HIDDEN + name: mask.astype(np.float64) for name, mask in masks.items()}


def _refuse_alone(part: Part, rule: Rule) -> None:
    """Refuse what would be seen by itself and must not."""
    if not part.alone:
        raise PolicyRefused(
            "single rows stand out in this site's part of the question, so that it leaves in a protected sum only. Cure: "
            "protection: {secure_aggregation: secagg+} in the job",
            step=STEP,
        )
    if part.rows < rule.min_rows:
        raise PolicyRefused(
            f"the question is over fewer than {rule.min_rows} rows here; allowed: {rule.min_rows} or more where this site's "
            "answer is seen by itself (policy.rules, min_rows). Cure: ask of more rows, or under secure_aggregation: secagg+",
            step=STEP,
        )
    if part.rows < rule.rows_per_parameter * part.parameters:
        raise PolicyRefused(
            f"{part.parameters} parameters would be estimated from fewer than {rule.rows_per_parameter:g} rows each here "
            "(policy.rules, rows_per_parameter). Cure: fewer columns, or secure_aggregation: secagg+, where the rows of all "
            "sites count",
            step=STEP,
        )


def _masks(part: Part, minimum: int) -> dict[str, Mask]:
    """Where each array of cells, and each that goes with one, is kept back; in the part's order.

    Args:
        part: Whose cells.
        minimum: A count of 1 or more below it is kept back.
    """
    found: dict[str, Mask] = {}
    for name, followers in part.cells.items():
        counts = _counts(part.sums, name)
        small = (counts > 0) & (counts < minimum)
        for each in dict.fromkeys((name, *followers)):
            shape = _array(part.sums, each).shape
            if shape[: small.ndim] != small.shape:
                raise TaskFailed(
                    f"array {each} has shape {shape} and goes with cells of shape {small.shape}", step=STEP
                )
            spread = np.broadcast_to(small.reshape(small.shape + (1,) * (len(shape) - small.ndim)), shape)
            found[each] = found[each] | spread if each in found else spread
    return {name: found[name] for name in part.sums if name in found}


def _counts(sums: Sums, name: str) -> npt.NDArray[Any]:
    counts = _array(sums, name)
    if (counts < 0).any() or (counts != np.floor(counts)).any():
        raise TaskFailed(
            f"array {name} is one of cells, and has entries that are no counts of rows", step=STEP
        )
    return counts


def _array(sums: Sums, name: str) -> npt.NDArray[Any]:
    if name not in sums:
        raise TaskFailed(
            f"the part has no array {name}, which its cells name; it has {', '.join(sums)}", step=STEP
        )
    return sums[name]


def _refuse_odd(sums: Sums) -> None:
    """Refuse numbers that would spoil a sum, and names that stand for something else."""
    for name, array in sums.items():
        if name.startswith(HIDDEN):
            raise TaskFailed(
                f"array {name}: names that begin with {HIDDEN} are for cells that are kept back", step=STEP
            )
        if not np.isfinite(array).all():
            raise DataError(
                f"array {name} of the answer is not finite here. Cure: make infinite values missing, or use a larger unit "
                "for the column",
                step=STEP,
            )
