"""The participant file, kept at the site: what it has and what it allows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from fedcore.jobs.common import Bytes, Name, Strict
from fedcore.jobs.datasets import DataSet


class Rule(Strict):
    """One thing the site allows. A request is allowed when one rule covers all of it.

    Args:
        jobs: Kinds of job.
        data: Data set of the catalogue, or `any`.
        columns: `all`, or the columns a job may read.
        purpose: A purpose the job must state, or `any`.
        min_cohort: Fewest participants the run must have.
        min_rows: Fewest rows of this site over which anything is computed and released.
    """

    jobs: tuple[Literal["train", "psi", "vertical", "analytics"], ...]
    data: str
    columns: Literal["all"] | tuple[str, ...] = "all"
    purpose: str = "any"
    min_cohort: int = Field(default=2, ge=1)
    min_rows: int = Field(default=5, ge=1)


class Policy(Strict):
    """What may run and what may leave. Denied unless a rule allows it.

    Args:
        default: What holds where no rule speaks: nothing is allowed.
        rules: What is allowed.
        code: Python packages whose tasks and strategies may run here; `package.module` prefixes are taken.
    """

    default: Literal["deny"] = "deny"
    rules: tuple[Rule, ...] = ()
    code: tuple[str, ...] = ("fedcore", "strategies")


class Resources(Strict):
    """What the site gives to jobs.

    Args:
        gpus: `auto` takes what CUDA shows; `none` hides it from jobs.
        memory: Upper bound on a data set held in memory.
    """

    gpus: Literal["auto", "none"] = "auto"
    memory: Bytes = 8 * 10**9


class Participant(Strict):
    """One institution.

    Args:
        name: As jobs, rosters and results call it; unique in a federation.
        identity: Private key file, made by `fedcore identity new`; needed for `engine: deployment` only.
        catalogue: Data sets by the names that jobs use. Paths are relative to this file.
        state: Folder for evidence, client state and logs; relative to this file.
        evidence: `digest` records a SHA-256 of the arrays of every update that left, and has each request on
            the disk before the work begins; `counts` records sizes only, a request together with what became
            of it (virtual participants of a simulation).
    """

    name: Name
    identity: Path | None = None
    catalogue: dict[Name, DataSet]
    policy: Policy = Policy()
    resources: Resources = Resources()
    state: Path | None = None
    evidence: Literal["digest", "counts"] = "digest"
