"""Many participants made from one data set, for simulation."""

from __future__ import annotations

from pathlib import Path

from fedcore.jobs.datasets import Part
from fedcore.jobs.federation import Federation
from fedcore.jobs.participant import Participant, Policy, Rule


def virtual_participants(spec: Federation, folder: Path) -> tuple[Participant, ...]:
    """The participants that a federation's `virtual` part describes.

    Args:
        spec: The federation, its paths absolute.
        folder: The folder of its file; state goes below it.

    Returns:
        `count` participants named `site-0000`, `site-0001`, ..., each with its part of the data set.
    """
    virtual = spec.virtual
    if virtual is None:
        return ()
    policy = virtual.policy
    if policy is None:
        # No person stands behind a dealt share, and a small one must not stop a simulation.
        policy = Policy(rules=(Rule(jobs=("train",), data=virtual.name, min_cohort=1, min_rows=1),))
    state = folder / ".fedcore" / spec.name
    made = []
    for index in range(virtual.count):
        name = f"site-{index:04d}"
        part = Part(
            index=index,
            of=virtual.count,
            method=virtual.split,
            alpha=virtual.alpha,
            label=virtual.label,
            column=virtual.column,
            seed=virtual.seed,
        )
        data = virtual.data.model_copy(update={"part": part})
        made.append(
            Participant(
                name=name,
                catalogue={virtual.name: data},
                policy=policy,
                state=state / name,
                evidence="counts",
            )
        )
    return tuple(made)
