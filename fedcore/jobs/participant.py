"""The participant file, kept at the site: what it has and what it allows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from fedcore.errors import did_you_mean
from fedcore.jobs.asks import check_statistic
from fedcore.jobs.common import Address, Bytes, Name, Strict
from fedcore.jobs.datasets import DataSet
from fedcore.jobs.psi import Protocol
from fedcore.jobs.secure import MaskCipher, SumProtocol

Kind = Literal["train", "psi", "vertical", "analytics"]
Neighbours = Literal[
    "add-remove-row",
    "add-remove-person",
    "add-remove-client",
    "replace-row",
    "replace-person",
    "replace-client",
]
"""Words of `fedcore.privacy.sensitivity.neighbours`."""


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
            fewest that all parties share. In an `analytics` job where this site's answer is seen by itself; a protected
            sum takes sites of any size, unless `small_cells` is `never`.
        peers: For `psi` and `vertical`: parties with which this site finds shared rows, or `any`; nobody when absent.
        protocols: For `psi`: protocols that may be used, or `any`.
        reveal: For `psi` and `vertical`: what others may learn. What this site itself learns is for the others to allow.
        askers: For `analytics`: who may ask, as the coordinator knows the person, or `any`.
        statistics: For `analytics`: `all`, or which: aggregates of SQL (`count`, `mean`, ...) and kinds of question
            (`cox`, `histogram`, ...).
        min_cell: For `analytics`: fewest rows behind a number of a table; smaller cells are suppressed. Never below 3.
        small_cells: For `analytics`: `in_sums`: a cell of fewer than `min_cell` rows of this site may go into a protected
            sum, which is suppressed where the sum is small; `never`: it is kept back there too.
        rows_per_parameter: For `analytics`: rows that each estimated parameter of a model needs; of this site where its
            answer is seen by itself, else of the sum.
        private: For `analytics`: whether answers leave under differential privacy only.
        keys: For `analytics`: values of a column of categories that this site tells before it is asked: `declared` ones
            (`levels` of the data set) only, or `told`: also those that at least `min_cell` of its rows have.
    """

    jobs: tuple[Kind, ...]
    data: str
    columns: Literal["all"] | tuple[str, ...] = "all"
    purpose: str = "any"
    min_cohort: int = Field(default=2, ge=1)
    min_rows: int = Field(default=5, ge=1)
    peers: Literal["any"] | tuple[Name, ...] = ()
    protocols: Literal["any"] | tuple[Protocol, ...] = "any"
    reveal: Revealed = Revealed()
    askers: Literal["any"] | tuple[Name, ...] = "any"
    statistics: Literal["all"] | tuple[str, ...] = "all"
    min_cell: int = Field(default=5, ge=3)
    small_cells: Literal["in_sums", "never"] = "in_sums"
    rows_per_parameter: float = Field(default=5, ge=1, allow_inf_nan=False)
    private: Literal["required", "optional"] = "optional"
    keys: Literal["declared", "told"] = "declared"

    @field_validator("statistics")
    @classmethod
    def _statistics(cls, words: Literal["all"] | tuple[str, ...]) -> Literal["all"] | tuple[str, ...]:
        return words if isinstance(words, str) else tuple(map(check_statistic, words))


class Aggregated(Strict):
    """What this site requires of secure aggregation; a job that assumes less is refused.

    Args:
        required: Whether updates, metrics and answers leave under secure aggregation only, whatever a job says.
        least_cohort: Fewest participants in a sum that this site's update is in; a rule's `min_cohort` where that is
            more.
        corrupt: Share of the participants that may work together with the coordinator.
        adversary: `active`: it holds against a coordinator that says anything to anybody; `curious`: against one that
            follows the protocol, which is all that `ckks` and `paillier` do.
        protocols: That may be used, or `any`. Numbers of rows are summed under `secagg+` whatever the protocol (see
            `examples` in the job), so that it belongs in the list.
        ciphers: Of the masks of `secagg+` that may be used, or `any`.
        personal: Whether it takes part where the coordinator sends each participant another model or other settings,
            with which it could single one out.
    """

    required: bool = False
    least_cohort: int = Field(default=3, ge=2)
    corrupt: float = Field(default=0.05, ge=0, lt=1)
    adversary: Literal["active", "curious"] = "active"
    protocols: Literal["any"] | tuple[SumProtocol, ...] = "any"
    ciphers: Literal["any"] | tuple[MaskCipher, ...] = "any"
    personal: bool = False


class Approval(Strict):
    """What a person at the site may allow, for one exact request of an `analytics` job, when no rule does.

    Such a request waits until the person grants or denies it (`fedcore approvals`); meanwhile it is refused. Before there
    is a question the asker is told names and kinds of columns: those that the nearest rule allows, and all where `columns`
    may be granted. What `min_cohort`, `min_cell`, `row_id` and `secure_aggregation` hold back, nobody grants.

    Args:
        by: Who decides, told to those who ask.
        for: What may be lacking: the request is of nobody in `askers`, over other `columns`, for other `statistics`, for
            another `purpose`, or without the differential `privacy` that a rule requires; `any` of these, also on a data
            set that no rule is for: a rule's defaults hold then.
    """

    by: Name
    for_: tuple[Literal["askers", "columns", "statistics", "purpose", "privacy", "any"], ...] = Field(
        alias="for"
    )

    @field_validator("for_")
    @classmethod
    def _some(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        if not words:
            raise ValueError(
                "name what a person may allow, such as askers; leave approval out where it is nothing"
            )
        return words


class SiteBudget(Strict):
    """What may be spent of a data set's privacy, over all jobs together.

    Args:
        epsilon: Of all answers and models together, in the time that `per` says.
        delta: Of the same.
        per: Whether a new budget begins each calendar `year`.
        neighbours: Whose presence is hidden, and what may change about it; a request under another relation is refused.
        required_for: Kinds of job that may use the data set under differential privacy only.
    """

    epsilon: float = Field(gt=0, allow_inf_nan=False)
    delta: float = Field(default=0, ge=0, lt=1)
    per: Literal["year", "ever"] = "year"
    neighbours: Neighbours = "add-remove-row"
    required_for: tuple[Kind, ...] = ()


class Policy(Strict):
    """What may run and what may leave. Denied unless a rule allows it.

    Args:
        default: What holds where no rule speaks: nothing is allowed.
        rules: What is allowed.
        code: Python packages whose tasks and strategies may run here; `package.module` prefixes are taken.
        secure_aggregation: What is required where updates are summed under protection.
        aggregators: What may leave through another participant that adds up its region: `protected`, what is under secure
            aggregation, of which it learns nothing; `any`, plain updates too, which it can read.
        approval: What a person may allow; nothing when absent.
        privacy: Privacy budgets by data set.
    """

    default: Literal["deny"] = "deny"
    rules: tuple[Rule, ...] = ()
    code: tuple[str, ...] = ("fedcore", "strategies")
    secure_aggregation: Aggregated = Aggregated()
    aggregators: Literal["protected", "any"] = "protected"
    approval: Approval | None = None
    privacy: dict[Name, SiteBudget] = Field(default_factory=dict)


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

    @model_validator(mode="after")
    def _known(self) -> Self:
        # A budget under a misspelt name would hold nothing back.
        for name in self.policy.privacy:
            if name not in self.catalogue:
                raise ValueError(
                    f"policy.privacy: {name} is no data set of the catalogue; {did_you_mean(name, self.catalogue)}"
                )
        return self
