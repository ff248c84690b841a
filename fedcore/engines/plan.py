"""What a federation's deployment consists of: folders, keys, certificates and the commands to start.

Everything lies below `<folder of the federation file>/.fedcore/<name>/` (mode 0700). Nothing is started here.
"""

from __future__ import annotations

import ipaddress
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedcore.engines.flower_commands import write_connection
from fedcore.engines.processes import flower_command
from fedcore.errors import IdentityError, JobError
from fedcore.jobs.federation import Roster
from fedcore.jobs.load import LoadedFederation, load_roster
from fedcore.jobs.participant import Participant
from fedcore.trust.certificates import TlsFiles, prepare_tls
from fedcore.trust.identity import Identity, check_pin, load_identity, new_identity, write_secret

COORDINATOR = "coordinator"


@dataclass(frozen=True)
class Folders:
    """Where a federation (or one site) keeps what its processes need.

    Args:
        root: The work folder.
    """

    root: Path

    @property
    def state(self) -> Path:
        """What the supervisor last knew, for whoever asks."""
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the supervisor while it lives."""
        return self.root / "lock"

    @property
    def users(self) -> Path:
        """Held, shared, by each run that uses an ephemeral federation."""
        return self.root / "users"

    @property
    def registered(self) -> Path:
        """Public key lines, `NAME.pub`, of those whom the SuperLink lets in."""
        return self.root / "registered"

    @property
    def database(self) -> Path:
        """The SuperLink's state, which lets it be killed and come back."""
        return self.root / "superlink.db"

    @property
    def app(self) -> Path:
        """The Flower app of three-line modules."""
        return self.root / "app"

    @property
    def connection_home(self) -> Path:
        """FLWR_HOME of Flower's own command line and of the ServerApp."""
        return self.root / "home"

    def forget(self) -> None:
        """Delete the SuperLink's state: messages, runs and leases of a start that is over."""
        for part in self.root.glob(f"{self.database.name}*"):
            part.unlink(missing_ok=True)

    def log(self, unit: str) -> Path:
        """The log of one process."""
        return self.root / "logs" / f"{unit.replace(' ', '-')}.log"

    def home(self, participant: str) -> Path:
        """FLWR_HOME of one SuperNode: Flower unpacks apps there, and two must not do it in one place."""
        return self.root / "nodes" / participant

    def make(self) -> None:
        """Make the work folder, for this user's eyes only."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)

    def secret(self, name: str) -> Path:
        """A file with 32 random bytes that two processes of this machine share; made at first use."""
        path = self.root / "secrets" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_secret(path, secrets.token_hex(32).encode())
        return path


@dataclass(frozen=True)
class Site:
    """A participant whose SuperNode this machine starts.

    Args:
        participant: What its file says.
        file: That file, absolute.
        identity: Its long-term key.
    """

    participant: Participant
    file: Path
    identity: Identity

    @property
    def name(self) -> str:
        """The participant's name."""
        return self.participant.name


@dataclass(frozen=True)
class Plan:
    """Everything about a deployment that is known before a process starts.

    Args:
        federation: The files.
        folders: Where it works.
        coordinator: The coordinator's key.
        sites: The participants whose SuperNodes this machine starts.
        registered: Name to public key line of everyone the SuperLink will accept: the roster's participants
            and the sites.
    """

    federation: LoadedFederation
    folders: Folders
    coordinator: Identity
    sites: tuple[Site, ...]
    registered: Mapping[str, str]

    @property
    def public(self) -> bool:
        """Whether other machines can reach the address that the coordinator listens on."""
        return not is_loopback(self.federation.spec.coordinator.listen)

    def tls(self) -> TlsFiles:
        """Certificates for every name under which the SuperLink is reached."""
        coordinator = self.federation.spec.coordinator
        hosts = [coordinator.host, "localhost", "127.0.0.1", "::1"]
        if not is_wildcard(coordinator.listen):
            hosts.append(coordinator.listen)
        return prepare_tls(self.folders.root / "tls", self.coordinator, self.federation.spec.name, hosts)

    def connect(self, superlink: str, tls: TlsFiles) -> None:
        """Let Flower's command line find the SuperLink."""
        write_connection(self.folders.connection_home, superlink, tls.authority)


def work_folder(federation: LoadedFederation) -> Folders:
    """Where a federation works: `.fedcore/<name>` beside its file."""
    return Folders(federation.file.parent / ".fedcore" / federation.spec.name)


def make_plan(federation: LoadedFederation) -> Plan:
    """Load every key, compare it with the roster, and say who will be let in.

    Raises:
        JobError: The federation is virtual.
        IdentityError: A key is missing, unsafe, or not the one that the roster pins.
    """
    spec = federation.spec
    if spec.virtual is not None:
        raise JobError(
            f"{federation.file}: virtual participants have no keys and no machines; allowed with engine "
            f"deployment: participant files. Cure: list participants, or run on engine embedded or simulation"
        )
    folders = work_folder(federation)
    folders.make()
    roster = load_roster(spec.roster) if spec.roster is not None else None
    coordinator = _coordinator(federation, roster)
    sites = tuple(
        load_site(participant, file, roster)
        for participant, file in zip(federation.participants, federation.participant_files, strict=True)
    )
    registered = pins(roster, "participant") | {site.name: site.identity.public_line for site in sites}
    return Plan(federation, folders, coordinator, sites, registered)


def load_site(participant: Participant, file: Path, roster: Roster | None) -> Site:
    """A participant with its key, made on first use when its file names none and there is no roster.

    Raises:
        IdentityError: The key is missing or unsafe, or the roster pins another.
    """
    path = participant.identity
    if path is None:
        if roster is not None or participant.state is None:
            raise IdentityError(
                f"{file} names no identity, but the federation has a roster of pinned keys; allowed: the key "
                f"file that belongs to {participant.name}. Cure: fedcore identity new "
                f"keys/{participant.name}.key --name {participant.name}, and the line identity: "
                f"keys/{participant.name}.key",
                party=participant.name,
            )
        path = participant.state / "identity.key"
        if not path.exists():
            return Site(participant, file, new_identity(path, participant.name))
    identity = load_identity(path, participant.name)
    if roster is not None:
        check_pin(participant.name, identity.public_line, pins(roster, "participant"))
    return Site(participant, file, identity)


def everyone(federation: LoadedFederation) -> list[str]:
    """The names of all participants: those whose files are here and those whom the roster knows."""
    roster = load_roster(federation.spec.roster) if federation.spec.roster is not None else None
    return list(dict.fromkeys([*(p.name for p in federation.participants), *pins(roster, "participant")]))


def pins(roster: Roster | None, role: str) -> dict[str, str]:
    """Name to public key line of the roster's members with a role."""
    members = roster.members if roster is not None else {}
    return {name: entry.public_key for name, entry in members.items() if entry.role == role}


def coordinator_pin(roster: Roster | None) -> str | None:
    """The public key line that the roster pins to the coordinator; None without a roster or such a member.

    Raises:
        IdentityError: The roster names two coordinators.
    """
    pinned = pins(roster, "coordinator")
    if len(pinned) > 1:
        raise IdentityError(
            f"the roster gives the role coordinator to {' and '.join(pinned)}; allowed: exactly one. Cure: "
            f"leave it with the one whose key is the SuperLink's"
        )
    return next(iter(pinned.values()), None)


def coordinator_key(federation: LoadedFederation) -> Path:
    """The file of the coordinator's private key."""
    return federation.spec.coordinator.identity or work_folder(federation).root / "coordinator.key"


def _coordinator(federation: LoadedFederation, roster: Roster | None) -> Identity:
    path = coordinator_key(federation)
    pinned = coordinator_pin(roster)
    if not path.exists() and pinned is None:
        return new_identity(path, COORDINATOR)
    identity = load_identity(path, COORDINATOR)
    if pinned is not None:
        check_pin(COORDINATOR, identity.public_line, {COORDINATOR: pinned})
    return identity


def superlink_command(folders: Folders, tls: TlsFiles, host: str, port: int) -> list[str]:
    """`flower-superlink`: state on disk and ServerApps in processes of ours, so that a run outlives it."""
    return [
        flower_command("flower-superlink"),
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", str(tls.authority)),
        *("--ssl-certfile", str(tls.certificate), "--ssl-keyfile", str(tls.key)),
        *("--database", str(folders.database)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(folders.secret("superlink"))),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]


def front_command(tls: TlsFiles, host: str, port: int, superlink: str) -> list[str]:
    """The door before a SuperLink that other machines may reach (`fedcore.engines.front`)."""
    return [
        *(sys.executable, "-m", "fedcore.engines.front"),
        *("--host", host, "--port", str(port), "--superlink", superlink),
        *("--ca", str(tls.authority), "--certificate", str(tls.certificate), "--key", str(tls.key)),
    ]


def relay_command(plan: Plan, listen: str) -> list[str]:
    """`fedcore relay`, for the participants that the SuperLink lets in; it shows the coordinator's key.

    Args:
        plan: Of the deployment.
        listen: `host:port`.
    """
    words = ["--listen", listen, "--identity", str(plan.coordinator.path)]
    return [sys.executable, "-m", "fedcore", "relay", *words, "--party", str(plan.folders.registered)]


def superexec_command(runtime: str, secret: Path, authority: Path | None) -> list[str]:
    """`flower-superexec`: starts the ServerApp or ClientApp processes of one runtime.

    Args:
        runtime: `host:port` of the SuperLink or SuperNode.
        secret: Shared with it, so that no other process of this machine can take its tasks.
        authority: Vouches for the SuperLink; None for a SuperNode, which is reached over loopback only.
    """
    verify = ["--insecure"] if authority is None else ["--root-certificates", str(authority)]
    return [
        flower_command("flower-superexec"),
        *("--runtime-api-address", runtime),
        *("--superexec-auth-secret-file", str(secret)),
        *verify,
    ]


def supernode_command(
    site: Site, superlink: str, authority: Path, runtime_port: int, secret: Path
) -> list[str]:
    """`flower-supernode` of one participant.

    Args:
        site: Its file and key.
        superlink: `host:port`.
        authority: The CA certificate that vouches for the SuperLink.
        runtime_port: Where its ClientApps reach it, on loopback.
        secret: Shared with its `flower-superexec`.
    """
    return [
        flower_command("flower-supernode"),
        *("--superlink", superlink),
        *("--root-certificates", str(authority)),
        *("--auth-supernode-private-key", str(site.identity.path)),
        *("--host", "127.0.0.1", "--port", str(runtime_port)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
        *("--node-config", f"participant={_quoted(site.file)}"),
    ]


def _quoted(path: Path) -> str:
    """A path as Flower's command line takes it: a TOML string without escapes."""
    text = str(path)
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text and "\\" not in text:
        return f'"{text}"'
    raise JobError(
        f"{text}: Flower cannot be given a path with both kinds of quotes. Cure: rename the folder"
    )


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def reachable(host: str) -> str:
    """An address of this machine that reaches a listener on `host`, as it stands in a URL."""
    if is_wildcard(host):
        return "[::1]" if ":" in host else "127.0.0.1"
    return f"[{host.strip('[]')}]" if ":" in host else host


def is_wildcard(host: str) -> bool:
    """Whether an address means every interface."""
    return host.strip("[]") in ("0.0.0.0", "::")
