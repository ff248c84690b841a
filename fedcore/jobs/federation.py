"""The federation file: who takes part and where they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fedcore.jobs.common import Address, Name, Strict
from fedcore.jobs.datasets import DataSet
from fedcore.jobs.participant import Policy

Engine = Literal["embedded", "simulation", "deployment"]


class Coordinator(Strict):
    """Where the SuperLink listens.

    Args:
        address: `host:port` as participants reach it.
        listen: Interface the SuperLink binds to.
        data_port: Where participants open the sessions in which a run's messages travel, at the same host and
            interface; one run at a time holds it, and a second one's messages go through the SuperLink, which takes
            seconds each. `auto` is any free port where `listen` is this machine's own, else none; `off` is none.
        identity: The coordinator's private key file; made on first use when absent.
    """

    address: str = Field(default="localhost:8443", pattern=r"^[^\s:]+:\d{1,5}$")
    listen: str = "127.0.0.1"
    data_port: Annotated[int, Field(strict=True, ge=1, le=65535)] | Literal["auto", "off"] = "auto"
    identity: Path | None = None

    @field_validator("address")
    @classmethod
    def _port(cls, address: str) -> str:
        if not 1 <= int(address.rsplit(":", 1)[1]) <= 65535:
            raise ValueError("the port of an address is from 1 to 65535")
        return address

    @model_validator(mode="after")
    def _apart(self) -> Coordinator:
        if self.data_port == self.port:
            raise ValueError(f"data_port is {self.data_port}, the port of address; each needs its own")
        return self

    @property
    def host(self) -> str:
        """The address without its port."""
        return self.address.rsplit(":", 1)[0]

    @property
    def port(self) -> int:
        """The address's port."""
        return int(self.address.rsplit(":", 1)[1])


class Relay(Strict):
    """Where participants meet that other participants cannot reach; kept by the coordinator's machine.

    What passes is encrypted between the participants; the relay learns who talks to whom, and sizes and times.

    Args:
        address: `host:port` as participants reach it.
        listen: Interface that is bound.
    """

    address: Address
    listen: str = "127.0.0.1"

    @property
    def bound(self) -> str:
        """`host:port` to listen at."""
        return f"{self.listen}:{self.address.rsplit(':', 1)[1]}"


class ComputeNetwork(Strict):
    """The compute network that jobs are placed on.

    Args:
        map: File of its sites and links.
        root: Site of the coordinator, at which aggregates end.
    """

    map: Path
    root: Name


class Virtual(Strict):
    """Many participants made from one data set, for simulation.

    Args:
        count: How many.
        name: The data set's name in each one's catalogue.
        data: The whole data set, its path relative to the federation file.
        split, alpha, label, column, seed: As in `fedcore.jobs.datasets.Part`.
        policy: Of each virtual participant; allows training on the data set when absent.
    """

    count: int = Field(gt=0)
    name: Name
    data: DataSet
    split: Literal["iid", "dirichlet", "by"] = "iid"
    alpha: float = Field(default=0.5, gt=0)
    label: str | None = None
    column: str | None = None
    seed: int = Field(default=0, ge=0)
    policy: Policy | None = None

    @model_validator(mode="after")
    def _complete(self) -> Virtual:
        if self.split == "dirichlet" and self.label is None:
            raise ValueError("split dirichlet needs label: the class column")
        if self.split == "by" and self.column is None:
            raise ValueError("split by needs column: the column whose values name the participant")
        return self


class EmbeddedOptions(Strict):
    """How the in-process engine runs.

    Args:
        workers: Threads that train at a time, each with one resident model; `auto` is one per core. Fewer are
            used where that is measured to be faster.
        together: Train so many participants at a time as one batched model; each alone when absent. Meant for hundreds of
            small models on one GPU. On one core of a CPU 64 participants took a quarter of the time with an MLP of 32 hidden
            units, half of it with the digits CNN, and twice as long with wide MLPs or images of 28 x 28 pixels. Serves
            strategies that do nothing at the participants but FedProx's term, local training without `patience` and
            models without batch normalisation; what it does not serve is trained alone, and the log says why.
        serialize: Send every message through Flower's wire format, as tests do.
    """

    workers: int | Literal["auto"] = "auto"
    together: int | None = Field(default=None, ge=2)
    serialize: bool = False


class SimulationOptions(Strict):
    """What Ray gives each virtual participant.

    Args:
        cpus: Cores for one participant; the machine's cores divided by it train at a time.
        gpus: Share of a GPU for one participant.
    """

    cpus: float = Field(default=1.0, gt=0)
    gpus: float = Field(default=0.0, ge=0)


class RosterEntry(Strict):
    """A pinned identity.

    Args:
        public_key: OpenSSH public key line (ECDSA P-384).
        role: What it may act as.
        contact: A person, for people.
    """

    public_key: str = Field(pattern=r"^ecdsa-sha2-nistp384 \S+")
    role: Literal["participant", "coordinator"] = "participant"
    contact: str | None = None


class Roster(Strict):
    """Names and the public keys pinned to them.

    Args:
        members: One entry per name; the coordinator's has `role: coordinator`.
    """

    members: dict[Name, RosterEntry]


class Federation(Strict):
    """Who and where.

    Args:
        name: Names the work folder `.fedcore/<name>` beside this file.
        engine: `embedded`, `simulation` or `deployment`; `--engine` overrides it.
        roster: The roster file.
        participants: Participant files, relative to this file: all, or with engine deployment those this
            machine starts. With a roster there may be none: each site then starts itself.
        virtual: Instead of files: one data set dealt to many.
        network: Of jobs with a `placement`.
    """

    name: Name
    engine: Engine = "embedded"
    coordinator: Coordinator = Coordinator()
    relay: Relay | None = None
    roster: Path | None = None
    participants: tuple[Path, ...] = ()
    virtual: Virtual | None = None
    network: ComputeNetwork | None = None
    embedded: EmbeddedOptions = EmbeddedOptions()
    simulation: SimulationOptions = SimulationOptions()

    @model_validator(mode="after")
    def _someone(self) -> Federation:
        elsewhere = self.engine == "deployment" and self.roster is not None and self.virtual is None
        if bool(self.participants) == (self.virtual is not None) and not elsewhere:
            raise ValueError("give exactly one of participants (files) and virtual")
        if self.relay is not None and str(self.coordinator.data_port) == self.relay.address.rsplit(":", 1)[1]:
            raise ValueError(
                f"coordinator.data_port is {self.coordinator.data_port}, the port of relay.address; each needs its own"
            )
        if self.virtual is not None and self.engine == "deployment":
            raise ValueError("virtual participants run on engine embedded or simulation, not deployment")
        return self
