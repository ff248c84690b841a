"""The participant file, kept at the site: what it has and what it allows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from fedcore.jobs.common import Address, Bytes, Name, Strict
from fedcore.jobs.datasets import DataSet
from fedcore.jobs.job import SumProtocol
from fedcore.jobs.psi import Protocol


class Revealed(Strict):
    """Who may learn what of the rows that a party shares with this site: nobody, unless named here.

    `any` stands for every party, and never for the coordinator. `rows` and `cardinality` are for `psi` and `vertical`
    jobs, the others for `vertical` ones.

    Args:
        rows: Parties that may learn which of their rows match rows of this site; in a `vertical` job also which of
            them are out of time, where this site has the label.
        cardinality: Parties that may learn how many keys match. Also `coordinator`, which `any` does not include.
        woe: Of the label holder: parties that may learn the weights of evidence of their own bins.
        totals: Label holders that may learn sums over the rows of each bin of this site's columns, the bins unnamed.
        correlation: Parties that may learn how this site's columns correlate, with each other and with theirs: the label
            holder, and where a linear model is fitted also the first of the partners.
        splits: Parties that may learn which rows go to which side of a tree's split, which at the label holder tells of
            labels.
        activations: Label holders that may learn what this site's half of a split network makes of each row; of the label
            holder: parties that may learn the gradients for it.
        scores: Label holders that may learn this site's part of each row's score.
    """

    rows: Literal["any"] | tuple[Name, ...] = ()
    cardinality: Literal["any"] | tuple[Name, ...] = ()
    woe: Literal["any"] | tuple[Name, ...] = ()
    totals: Literal["any"] | tuple[Name, ...] = ()
    correlation: Literal["any"] | tuple[Name, ...] = ()
    splits: Literal["any"] | tuple[Name, ...] = ()
    activations: Literal["any"] | tuple[Name, ...] = ()
    scores: Literal["any"] | tuple[Name, ...] = ()


class Rule(Strict):
    """One thing the site allows. A request is allowed when one rule covers all of it.

    Args:
        jobs: Kinds of job.
        data: Data set of the catalogue, or `any`.
        columns: `all`, or the columns a job may read.
        purpose: A purpose the job must state, or `any`.
        min_cohort: Fewest participants the run must have.
        min_rows: Fewest rows of this site over which anything is computed and released; in a `vertical` job also the
            fewest that all parties share.
        peers: For `psi` and `vertical`: parties with which this site finds shared rows, or `any`; nobody when absent.
        protocols: For `psi`: protocols that may be used, or `any`.
        reveal: For `psi` and `vertical`: what others may learn. What this site itself learns is for the others to allow.
    """

    jobs: tuple[Literal["train", "psi", "vertical", "analytics"], ...]
    data: str
    columns: Literal["all"] | tuple[str, ...] = "all"
    purpose: str = "any"
    min_cohort: int = Field(default=2, ge=1)
    min_rows: int = Field(default=5, ge=1)
    peers: Literal["any"] | tuple[Name, ...] = ()
    protocols: Literal["any"] | tuple[Protocol, ...] = "any"
    reveal: Revealed = Revealed()


class Aggregated(Strict):
    """What this site requires of secure aggregation; a job that assumes less is refused.

    Args:
        required: Whether updates and metrics leave under secure aggregation only, whatever a job says.
        least_cohort: Fewest participants in a sum that this site's update is in; a rule's `min_cohort` where that is
            more.
        corrupt: Share of the participants that may work together with the coordinator.
        adversary: `active`: it holds against a coordinator that says anything to anybody; `curious`: against one that
            follows the protocol, which is all that `ckks` and `paillier` do.
        protocols: That may be used, or `any`. Numbers of rows are summed under `secagg+` whatever the protocol (see
            `examples` in the job), so that it belongs in the list.
        personal: Whether it takes part where the coordinator sends each participant another model or other settings,
            with which it could single one out.
    """

    required: bool = False
    least_cohort: int = Field(default=3, ge=2)
    corrupt: float = Field(default=0.05, ge=0, lt=1)
    adversary: Literal["active", "curious"] = "active"
    protocols: Literal["any"] | tuple[SumProtocol, ...] = "any"
    personal: bool = False


class Policy(Strict):
    """What may run and what may leave. Denied unless a rule allows it.

    Args:
        default: What holds where no rule speaks: nothing is allowed.
        rules: What is allowed.
        code: Python packages whose tasks and strategies may run here; `package.module` prefixes are taken.
        secure_aggregation: What is required where updates are summed under protection.
        aggregators: What may leave through another participant that adds up its region: `protected`, what is under secure
            aggregation, of which it learns nothing; `any`, plain updates too, which it can read.
    """

    default: Literal["deny"] = "deny"
    rules: tuple[Rule, ...] = ()
    code: tuple[str, ...] = ("fedcore", "strategies")
    secure_aggregation: Aggregated = Aggregated()
    aggregators: Literal["protected", "any"] = "protected"


class Resources(Strict):
    """What the site gives to jobs.

    Args:
        gpus: `auto` takes what CUDA shows; `none` hides it from jobs.
        memory: Upper bound on a data set held in memory.
    """

    gpus: Literal["auto", "none"] = "auto"
    memory: Bytes = 8 * 10**9


class Inbound(Strict):
    """Where other participants reach this one, for jobs in which participants talk to each other.

    Args:
        address: `host:port` as they reach it.
        listen: Interface that is bound.
    """

    address: Address
    listen: str = "127.0.0.1"

    @property
    def bound(self) -> str:
        """`host:port` to listen at."""
        return f"{self.listen}:{self.address.rsplit(':', 1)[1]}"


class PinnedPeer(Strict):
    """A participant to which this one talks directly, and its key.

    Args:
        public_key: Its OpenSSH public key line (ECDSA P-384); nobody with another key is talked to.
        address: `host:port` where it is reached; what the coordinator says when absent.
    """

    public_key: str = Field(pattern=r"^ecdsa-sha2-nistp384 \S+")
    address: Address | None = None


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
        peers: Other participants to which this one talks directly, by name; needed for `psi` and `vertical` jobs on engine
            `deployment`. The coordinator cannot put another key in the place of one that stands here.
        nodes: Descriptor files of this participant's machines, as `fedcore network probe` writes them; what a job that
            is placed on the compute network may use.
        output: Folder for results that stay at the site, one folder per run; `results` in the state folder
            when absent.
    """

    name: Name
    identity: Path | None = None
    catalogue: dict[Name, DataSet]
    policy: Policy = Policy()
    resources: Resources = Resources()
    state: Path | None = None
    evidence: Literal["digest", "counts"] = "digest"
    peers: dict[Name, PinnedPeer] = Field(default_factory=dict)
    inbound: Inbound | None = None
    nodes: tuple[Path, ...] = ()
    output: Path | None = None
