"""What a deployment consists of: who is let in, with which key, by which commands."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest

from fedcore.engines.bundle import write_app, write_run_config
from fedcore.engines.plan import (
    everyone,
    is_loopback,
    load_site,
    make_plan,
    reachable,
    relay_command,
    superlink_command,
    supernode_command,
)
from fedcore.engines.site import plan_site
from fedcore.errors import IdentityError, JobError
from fedcore.jobs.load import load_federation, load_participant
from fedcore.trust.certificates import prepare_tls
from fedcore.trust.identity import new_identity

PARTICIPANT = "name: {name}\n{identity}catalogue:\n  d: {{connector: csv, path: d.csv}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "d.csv").write_text("a\n1\n")
    for name in ("centre", "north", "south"):
        new_identity(tmp_path / "keys" / f"{name}.key", name)
    site(tmp_path, "north")
    (tmp_path / "roster.yaml").write_text(
        "members:\n"
        + member(tmp_path, "centre", "coordinator")
        + member(tmp_path, "north")
        + member(tmp_path, "south")
    )
    return tmp_path


def site(folder: Path, name: str, identity: str | None = "keys/{name}.key") -> Path:
    line = f"identity: {identity.format(name=name)}\n" if identity else ""
    file = folder / f"{name}.yaml"
    file.write_text(PARTICIPANT.format(name=name, identity=line))
    return file


def member(folder: Path, name: str, role: str = "participant") -> str:
    line = (folder / "keys" / f"{name}.key.pub").read_text().strip()
    return f'  {name}: {{public_key: "{line}", role: {role}}}\n'


def federation(folder: Path, participants: str = "[north.yaml]", more: str = "roster: roster.yaml") -> Path:
    file = folder / "fed.yaml"
    file.write_text(
        f"name: fed\nengine: deployment\nparticipants: {participants}\n{more}\n"
        "coordinator: {address: 'localhost:8443', identity: keys/centre.key}\n"
    )
    return file


def test_registered_are_the_rosters_participants_and_nobody_else(folder: Path) -> None:
    loaded = load_federation(federation(folder))
    plan = make_plan(loaded)
    assert sorted(plan.registered) == ["north", "south"]
    assert [each.name for each in plan.sites] == ["north"]
    assert everyone(loaded) == ["north", "south"]


def test_coordinator_that_starts_no_site_itself_needs_only_a_roster(folder: Path) -> None:
    plan = make_plan(load_federation(federation(folder, "[]")))
    assert plan.sites == () and sorted(plan.registered) == ["north", "south"]
    with pytest.raises(JobError, match="participants"):
        load_federation(federation(folder, "[]", more=""))


def test_key_that_the_roster_does_not_pin_is_refused(folder: Path) -> None:
    (folder / "north.yaml").write_text(
        (folder / "north.yaml").read_text().replace("keys/north", "keys/south")
    )
    with pytest.raises(IdentityError, match="roster pins"):
        make_plan(load_federation(federation(folder)))


def test_coordinator_whose_key_is_not_the_pinned_one_is_refused(folder: Path) -> None:
    roster = (folder / "roster.yaml").read_text().splitlines(keepends=True)
    (folder / "roster.yaml").write_text(
        "".join([roster[0], member(folder, "south", "coordinator"), roster[2]])
    )
    with pytest.raises(IdentityError, match="coordinator"):
        make_plan(load_federation(federation(folder)))


def test_two_coordinators_in_a_roster_are_refused(folder: Path) -> None:
    with (folder / "roster.yaml").open("a") as file:
        file.write(member(folder, "south", "coordinator").replace("south", "second"))
    with pytest.raises(IdentityError, match="exactly one"):
        make_plan(load_federation(federation(folder)))


def test_participant_without_identity_gets_a_key_only_where_nothing_is_pinned(folder: Path) -> None:
    site(folder, "north", identity=None)
    with pytest.raises(IdentityError, match="names no identity"):
        make_plan(load_federation(federation(folder)))
    loaded = load_federation(federation(folder, more=""))
    first, second = make_plan(loaded), make_plan(loaded)
    key = first.sites[0].identity.path
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert first.sites[0].identity.public_line == second.sites[0].identity.public_line


def test_unsafe_key_stops_the_plan(folder: Path) -> None:
    (folder / "keys" / "north.key").chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        make_plan(load_federation(federation(folder)))


def test_work_folder_and_its_secrets_are_for_their_owner_only(folder: Path) -> None:
    plan = make_plan(load_federation(federation(folder)))
    secret = plan.folders.secret("north")
    assert stat.S_IMODE(plan.folders.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert (
        plan.folders.secret("north").read_bytes()
        == secret.read_bytes()
        != plan.folders.secret("x").read_bytes()
    )


def test_no_command_contains_a_secret_or_switches_protection_off(folder: Path) -> None:
    plan = make_plan(load_federation(federation(folder)))
    tls = plan.tls()
    secret = plan.folders.secret("superlink")
    command = superlink_command(plan.folders, tls, "127.0.0.1", 8443)
    assert "--enable-supernode-auth" in command and "--insecure" not in command
    assert command[command.index("--isolation") + 1] == "process"
    node = supernode_command(plan.sites[0], "localhost:8443", tls.authority, 9000, secret)
    assert "--insecure" not in node and "--root-certificates" in node
    assert secret.read_text() not in " ".join([*command, *node])


def test_relay_shows_the_coordinators_key_and_serves_the_registered_only(folder: Path) -> None:
    plan = make_plan(load_federation(federation(folder)))
    words = relay_command(plan, "127.0.0.1:9445")
    assert words[1:4] == ["-m", "fedcore", "relay"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert options == {
        "--listen": "127.0.0.1:9445",
        "--identity": str(plan.coordinator.path),
        "--party": str(plan.folders.registered),
    }


@pytest.mark.parametrize("name", ["plain", "two words", "it's", 'quo"te', "back\\slash", "a=b c", "ünï"])
def test_node_config_brings_the_path_through_flowers_parser(folder: Path, name: str) -> None:
    from flwr.common.config import parse_config_args

    place = folder / name
    place.mkdir()
    (place / "d.csv").write_text("a\n1\n")
    file = site(place, "north", identity=str(folder / "keys" / "north.key"))
    found = load_site(load_participant(file), file, None)
    command = supernode_command(found, "localhost:8443", folder / "ca.crt", 9000, folder / "secret")
    assert parse_config_args([command[command.index("--node-config") + 1]]) == {"participant": str(file)}


def test_run_config_brings_paths_through_flowers_parser(tmp_path: Path) -> None:
    from flwr.common.config import parse_config_args

    job = tmp_path / 'it\'s "my" job.yaml'
    file = write_run_config(
        tmp_path / "run.toml", job=job, federation=tmp_path, run_dir=tmp_path, resume=True
    )
    read = parse_config_args([str(file)])
    assert read["job"] == str(job) and read["resume"] is True


def test_app_names_what_is_installed_and_declares_every_setting(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert project["components"] == {
        "serverapp": "fedcore_app.coordinator:app",
        "clientapp": "fedcore_app.participant:app",
    }
    settings = write_run_config(
        tmp_path / "r.toml", job=folder, federation=folder, run_dir=folder, resume=False
    )
    assert set(tomllib.loads(settings.read_text())) == set(project["config"])
    assert (
        "from fedcore.participant.app import app as app"
        in (folder / "fedcore_app" / "participant.py").read_text()
    )


def test_site_takes_a_certificate_made_by_the_pinned_coordinator_only(folder: Path) -> None:
    loaded = load_federation(federation(folder, "[]"))
    known = (loaded.file, loaded.spec)
    good = prepare_tls(folder / "tls", make_plan(loaded).coordinator, "fed", ["localhost"])
    planned = plan_site(folder / "north.yaml", known, None, good.authority)
    assert planned.pinned and planned.superlink == "localhost:8443"
    evil = prepare_tls(folder / "evil", new_identity(folder / "evil.key", "centre"), "fed", ["localhost"])
    with pytest.raises(IdentityError, match="not the coordinator"):
        plan_site(folder / "north.yaml", known, None, evil.authority)


def test_site_refuses_a_roster_that_pins_no_coordinator(folder: Path) -> None:
    (folder / "roster.yaml").write_text("members:\n" + member(folder, "north"))
    loaded = load_federation(federation(folder, "[]"))
    authority = prepare_tls(folder / "tls", make_plan(loaded).coordinator, "fed", ["localhost"]).authority
    with pytest.raises(IdentityError, match="pins no coordinator"):
        plan_site(folder / "north.yaml", (loaded.file, loaded.spec), None, authority)


def test_site_without_a_certificate_is_told_where_to_get_it(folder: Path) -> None:
    loaded = load_federation(federation(folder, "[]"))
    with pytest.raises(IdentityError, match="--ca FILE"):
        plan_site(folder / "north.yaml", (loaded.file, loaded.spec), None, None)
    with pytest.raises(JobError, match="--coordinator"):
        plan_site(folder / "north.yaml", None, None, None)


def test_addresses() -> None:
    assert [
        is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.5", "host")
    ] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert [reachable(host) for host in ("0.0.0.0", "::", "10.0.0.5", "fe80::1")] == [
        "127.0.0.1",
        "[::1]",
        "10.0.0.5",
        "[fe80::1]",
    ]
