"""A real SuperLink and real SuperNodes over TLS with node authentication: what holds when parts of it die.

One federation serves all tests of this file: two sites that it starts itself, and a third that joins it from
outside, as from another machine, through the door on the public address. The tests stand in the order in
which they are harsh to it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from fedcore.engines import bundle
from fedcore.engines.deployment import Running, deployment
from fedcore.engines.federation import AlreadyUp, down, status, up
from fedcore.engines.installed import APP
from fedcore.engines.plan import Folders, Site, supernode_command, work_folder
from fedcore.engines.processes import child_environment, folder_mark, free_port, left_behind, new_mark
from fedcore.engines.state import read_state
from fedcore.errors import EngineError, IdentityError
from fedcore.jobs.load import LoadedFederation, load_federation
from fedcore.trust.identity import new_identity

pytestmark = [pytest.mark.system, pytest.mark.timeout(280)]

SITES = ("north", "south")
OUTSIDE = "east"


def write_federation(folder: Path, name: str, port: int) -> Path:
    """A federation of two sites, and a roster that pins every key and that of a site elsewhere."""
    members = {"centre": ("coordinator", new_identity(folder / "keys" / "centre.key", "centre"))}
    for site in (*SITES, OUTSIDE):
        members[site] = ("participant", new_identity(folder / "keys" / f"{site}.key", site))
        (folder / f"{site}.yaml").write_text(
            f"name: {site}\nidentity: keys/{site}.key\ncatalogue:\n  d: {{connector: csv, path: d.csv}}\n"
        )
    (folder / "d.csv").write_text("a,b\n1,2\n")
    roster = "".join(
        f'  {member}: {{public_key: "{key.public_line}", role: {role}}}\n'
        for member, (role, key) in members.items()
    )
    (folder / "roster.yaml").write_text(f"members:\n{roster}")
    file = folder / "federation.yaml"
    file.write_text(
        f"name: {name}\nengine: deployment\nroster: roster.yaml\n"
        f"coordinator: {{address: 'localhost:{port}', listen: 0.0.0.0, identity: keys/centre.key}}\n"
        f"participants: [{', '.join(f'{site}.yaml' for site in SITES)}]\n"
    )
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        # The sites choose the app that they run; the bundle that a run brings has no say in it.
        patch.setenv(APP, "toy_app:client")
        yield tmp_path_factory.mktemp("federation")


@pytest.fixture(scope="module")
def federation(folder: Path) -> Iterator[LoadedFederation]:
    loaded = load_federation(write_federation(folder, "two-sites", free_port()))
    try:
        up(loaded)
        yield loaded
    finally:
        down(loaded)


@pytest.fixture(scope="module")
def app(folder: Path) -> Path:
    """A bundle whose ClientApp no site should ever run."""
    return bundle.write_app(folder / "app", "toy_app:server", "toy_app:hostile")


@pytest.fixture
def running(federation: LoadedFederation, app: Path) -> Iterator[Running]:
    with deployment(federation, app=app) as found:
        yield found


def start(running: Running, folder: Path, name: str, **job: Any) -> tuple[threading.Thread, Path]:
    """Start a run in a thread; its folder."""
    home = folder / name
    home.mkdir()
    (home / "job.json").write_text(json.dumps(job))
    thread = threading.Thread(target=lambda: running.run(home / "job.json", home), daemon=True)
    thread.start()
    return thread, home


def wait(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return found


def pid_of(federation: LoadedFederation, unit: str) -> int | None:
    processes = read_state(work_folder(federation)).get("processes", [])
    pid: int | None = next(process["pid"] for process in processes if process["name"] == unit)
    return pid


def processes_of(federation: LoadedFederation) -> list[psutil.Process]:
    root = work_folder(federation).root
    return left_behind(folder_mark(root), root)


def rounds(home: Path) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = json.loads((home / "result.json").read_text())["rounds"]
    return found


def test_every_supernode_is_online_and_the_superlink_speaks_tls_only(federation: LoadedFederation) -> None:
    state = status(federation)
    assert state["status"] == "up"
    online = {each["name"]: each["online"] for each in state["participants"]}
    assert online == {"north": True, "south": True, "east": False}
    host, port = state["superlink"].split(":")
    context = ssl.create_default_context(cafile=state["authority"])
    with (
        socket.create_connection((host, int(port)), 5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.version() == "TLSv1.3"
    with socket.create_connection((host, int(port)), 5) as plain, pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")


def test_public_address_leads_to_the_fleet_api_and_nowhere_else(federation: LoadedFederation) -> None:
    state = status(federation)
    context = ssl.create_default_context(cafile=state["authority"])
    with httpx.Client(
        base_url=f"https://localhost:{federation.spec.coordinator.port}", verify=context
    ) as door:
        assert door.get("/health").status_code == 200
        for path in ("/v1/control/list-nodes", "/v1/control/start-run", "/v1/runtime/acquire-task"):
            assert door.post(path, content=b"").status_code == 403
        # Behind the door stands Flower's own check of the node's signature.
        unsigned = {"content-type": "application/protobuf", "accept": "application/protobuf"}
        assert door.post("/v1/fleet/pull-messages", content=b"", headers=unsigned).status_code == 401
    listening = {
        connection.laddr.ip
        for process in processes_of(federation)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr.port != federation.spec.coordinator.port
    }
    assert listening == {"127.0.0.1"}


def test_site_on_its_own_joins_through_the_door_and_takes_part(
    running: Running, federation: LoadedFederation, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    (own / "keys").mkdir(parents=True)
    for file in ("east.yaml", "d.csv", "roster.yaml", "keys/east.key"):
        shutil.copy(federation.file.parent / file, own / file)
    (own / "federation.yaml").write_text(
        "name: two-sites\nengine: deployment\nroster: roster.yaml\n"
        f"coordinator: {{address: 'localhost:{federation.spec.coordinator.port}'}}\n"
    )
    shutil.copy(status(federation)["authority"], own / "ca.crt")
    command = [sys.executable, "-c", "from fedcore.cli.main import main; main()"]
    arguments = ["participant", "start", "east.yaml", "--federation", "federation.yaml", "--ca", "ca.crt"]
    with (tmp_path / "site.log").open("wb") as log:
        site = subprocess.Popen([*command, *arguments], cwd=own, stdout=log, stderr=log)
    try:
        wait(lambda: "east: online" in (tmp_path / "site.log").read_text(), 60, "the site is let in")
        thread, home = start(running, tmp_path, "three", rounds=1)
        thread.join(90)
        assert sorted(each["who"] for each in rounds(home)[0]) == ["east", "north", "south"]
        site.send_signal(signal.SIGINT)
        assert site.wait(20) == 0
    finally:
        site.kill()
        site.wait()
    assert "the key that the roster pins" in (tmp_path / "site.log").read_text()
    root = own / ".fedcore" / "east" / "supernode"
    assert left_behind(folder_mark(root), root) == []


def test_second_start_is_refused_and_names_the_first(federation: LoadedFederation) -> None:
    keeper = read_state(work_folder(federation))["supervisor"]["pid"]
    with pytest.raises(AlreadyUp, match=str(keeper)):
        up(federation)
    assert status(federation)["status"] == "up"


def test_taken_port_is_named_with_the_cure_and_nothing_stays(
    federation: LoadedFederation, tmp_path: Path
) -> None:
    port = federation.spec.coordinator.port
    other = load_federation(write_federation(tmp_path, "other", port))
    with pytest.raises(EngineError, match=rf"port {port} .*coordinator\.address"):
        up(other)
    assert processes_of(other) == []
    assert status(other)["status"] == "failed"


def test_key_that_the_roster_does_not_pin_starts_nothing(
    federation: LoadedFederation, tmp_path: Path
) -> None:
    file = write_federation(tmp_path, "wrong", free_port())
    (tmp_path / "keys" / "north.key").unlink()
    (tmp_path / "keys" / "north.key.pub").unlink()
    new_identity(tmp_path / "keys" / "north.key", "north")
    with pytest.raises(IdentityError, match=r"north.*roster pins"):
        up(load_federation(file))
    assert processes_of(load_federation(file)) == []


def test_supernode_with_an_unregistered_key_is_refused_by_the_superlink(
    federation: LoadedFederation, tmp_path: Path
) -> None:
    stranger = new_identity(tmp_path / "stranger.key", "stranger")
    site = Site(federation.participants[0], federation.participant_files[0], stranger)
    state = status(federation)
    folders = Folders(tmp_path / "work")
    folders.make()
    command = supernode_command(
        site, state["superlink"], Path(state["authority"]), free_port(), folders.secret("stranger")
    )
    environment = child_environment(new_mark(folders.root), FLWR_HOME=str(tmp_path / "home"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "305" in done.stdout + done.stderr


def test_app_that_raises_ends_the_run_with_its_reason(running: Running, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"raise": "no such thing"}))
    with pytest.raises(EngineError, match="no such thing") as failed:
        running.run(tmp_path / "job.json", tmp_path)
    assert "Traceback" in (failed.value.detail or "")


def test_two_runs_at_once_both_finish_and_a_killed_superlink_ends_neither(
    running: Running, federation: LoadedFederation, tmp_path: Path
) -> None:
    long, home = start(running, tmp_path, "long", rounds=3)
    short, other = start(running, tmp_path, "short", rounds=1)
    wait((home / "progress.json").exists, 90, "first round of the long run")
    before = pid_of(federation, "superlink")
    assert before is not None
    os.kill(before, signal.SIGKILL)
    long.join(150)
    short.join(90)
    assert not long.is_alive() and not short.is_alive()
    # Nothing was lost and nothing was done twice: each site counted 1, 2, 3.
    asked = [sorted((each["who"], each["n"]) for each in answers) for answers in rounds(home)]
    assert asked == [[("north", n), ("south", n)] for n in (1, 2, 3)]
    assert sorted(each["who"] for each in rounds(other)[0]) == list(SITES)
    assert pid_of(federation, "superlink") not in (None, before)


def test_killed_supernode_is_accepted_again_and_takes_part(
    running: Running, federation: LoadedFederation, tmp_path: Path
) -> None:
    log = work_folder(federation).log("supernode north")
    accepted = log.read_text().count("SuperNode ID")
    before = pid_of(federation, "supernode north")
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait(lambda: log.read_text().count("SuperNode ID") > accepted, 120, "the SuperNode is accepted again")
    wait(lambda: pid_of(federation, "supernode north") not in (None, before), 10, "the state names it")
    thread, home = start(running, tmp_path, "after", rounds=1)
    thread.join(90)
    assert sorted(each["who"] for each in rounds(home)[0]) == list(SITES)


def test_code_in_the_bundle_of_a_run_was_never_run_at_a_site(federation: LoadedFederation) -> None:
    """Every run above brought `toy_app:hostile`, which would have left its mark."""
    assert not list(work_folder(federation).root.glob("nodes/*/apps/*"))
    assert not (federation.file.parent / "hostile-was-here").exists()


def test_down_after_a_killed_keeper_leaves_no_process(federation: LoadedFederation) -> None:
    keeper = read_state(work_folder(federation))["supervisor"]["pid"]
    assert len(processes_of(federation)) >= 8
    os.kill(keeper, signal.SIGKILL)
    wait(lambda: status(federation)["status"] in ("lost", "down"), 10, "the loss is seen")
    assert down(federation)["was_up"] is False
    assert processes_of(federation) == []
    # The SuperLink's database holds what the sites sent.
    assert not list(work_folder(federation).root.glob("superlink.db*"))
    assert status(federation)["status"] == "down"


@pytest.mark.slow
def test_run_that_is_killed_takes_its_own_federation_with_it(
    federation: LoadedFederation, app: Path, tmp_path: Path
) -> None:
    """The federation was down, so the run started one for itself."""
    (tmp_path / "job.json").write_text(json.dumps({"rounds": 50}))
    script = (
        "import sys; from pathlib import Path\n"
        "from fedcore.engines.deployment import deployment; from fedcore.jobs.load import load_federation\n"
        "with deployment(load_federation(sys.argv[1]), app=Path(sys.argv[2])) as running:\n"
        "    running.run(Path(sys.argv[3]) / 'job.json', Path(sys.argv[3]))\n"
    )
    arguments = [str(federation.file), str(app), str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", script, *arguments])
    try:
        wait((tmp_path / "progress.json").exists, 120, "the run's first round")
    finally:
        process.kill()
        process.wait()
    wait(lambda: processes_of(federation) == [], 30, "everything of the killed run is gone")


def test_ctrl_c_stops_the_run_and_ends_what_it_started(
    federation: LoadedFederation, app: Path, tmp_path: Path
) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"rounds": 50}))

    def interrupt() -> None:
        if (tmp_path / "progress.json").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), deployment(federation, app=app) as running:
        running.run(tmp_path / "job.json", tmp_path, on_poll=interrupt)
    # The coordinator's half had the time to write down how far it came.
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "interrupted"
    assert processes_of(federation) == []
