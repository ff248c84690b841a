"""The door before the SuperLink: what passes, what does not, and that nothing passes under another name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fedcore.engines.front import FLEET, LARGEST_BODY, create_app


class SuperLink:
    """Stands in for the SuperLink and notes what reaches it."""

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.body = b""

        async def any_path(request: Request) -> Response:
            self.body = await request.body()
            self.seen.append(request)
            return JSONResponse({"path": request.url.path}, 207, {"x-answer": "yes", "connection": "close"})

        methods = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]
        self.app = Starlette(routes=[Route("/{path:path}", any_path, methods=methods)])

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        door = create_app("https://superlink", httpx.ASGITransport(self.app))

        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(door)
            async with httpx.AsyncClient(transport=transport, base_url="https://door") as client:
                # The raw path, because httpx would tidy up what an attacker would not.
                url = httpx.URL("https://door", raw_path=path.encode())
                return await client.request(method, url, **more)

        return asyncio.run(once())


@pytest.fixture
def superlink() -> SuperLink:
    return SuperLink()


@pytest.mark.parametrize("call", FLEET)
def test_calls_of_a_supernode_pass_with_body_and_signature(superlink: SuperLink, call: str) -> None:
    body = bytes(range(256)) * 500
    answer = superlink.ask("POST", f"/v1/fleet/{call}", content=body, headers={"flwr-signature": "abc"})
    assert (answer.status_code, answer.json()["path"]) == (207, f"/v1/fleet/{call}")
    assert answer.headers["x-answer"] == "yes"
    assert superlink.body == body
    assert superlink.seen[0].headers["flwr-signature"] == "abc"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/control/list-nodes",
        "/v1/runtime/acquire-task",
        "/v1/runtime/push-messages",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/",
        "/v1/fleet/get-run/",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/get-run/../../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/..%2fcontrol%2fstart-run",
        "//v1/control/start-run",
        "/V1/FLEET/get-run",
        "/v1/fleet/get-run%00",
        "/v1/fleet/get-run;x",
        "/docs",
        "/openapi.json",
        "/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_everything_else_is_forbidden_and_never_reaches_the_superlink(
    superlink: SuperLink, path: str, method: str
) -> None:
    assert superlink.ask(method, path).status_code == 403
    assert superlink.seen == []


def test_flower_knows_no_fleet_call_that_the_door_has_forgotten() -> None:
    """If Flower adds a call, this fails and somebody decides whether it may pass."""
    from flwr.supernode.fleet_http_client import FleetHttpClient

    calls = {name for name in vars(FleetHttpClient) if name[0].isupper()}
    ours = {"".join(word.capitalize() for word in call.split("-")) for call in FLEET}
    assert calls == ours | {"RegisterNode", "UnregisterNode"}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_on_a_fleet_path_are_refused(superlink: SuperLink, method: str) -> None:
    assert superlink.ask(method, "/v1/fleet/get-run").status_code == 405
    assert superlink.seen == []


def test_health_may_be_asked_by_anyone(superlink: SuperLink) -> None:
    assert superlink.ask("GET", "/health").status_code == 207
    assert superlink.ask("POST", "/health", content=b"x").status_code == 405


def test_query_and_forged_client_address_are_not_forwarded(superlink: SuperLink) -> None:
    forged = {
        "x-forwarded-for": "10.0.0.1",
        "forwarded": "for=10.0.0.1",
        "host": "superlink",
        "te": "trailers",
    }
    superlink.ask("POST", "/v1/fleet/get-run?path=/v1/control", content=b"", headers=forged)
    seen = superlink.seen[0]
    assert seen.url.query == ""
    assert not {"x-forwarded-for", "forwarded", "te"} & set(seen.headers)


def test_encoded_letters_lead_to_the_same_path_and_no_other(superlink: SuperLink) -> None:
    superlink.ask("POST", "/v1/fleet/%67et-run", content=b"")
    assert superlink.seen[0].url.path == "/v1/fleet/get-run"


def test_body_of_unknown_length_is_refused(superlink: SuperLink) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    assert superlink.ask("POST", "/v1/fleet/push-object", content=pieces()).status_code == 411
    assert superlink.seen == []


def test_body_beyond_the_limit_is_refused_before_it_is_read(superlink: SuperLink) -> None:
    headers = {"content-length": str(LARGEST_BODY + 1)}
    assert superlink.ask("POST", "/v1/fleet/push-object", content=b"", headers=headers).status_code == 413
    assert superlink.seen == []


def test_dead_superlink_is_told_with_the_status_for_which_supernodes_retry() -> None:
    class Dead(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("connection refused")

    async def once() -> int:
        transport = httpx.ASGITransport(create_app("https://superlink", Dead()))
        async with httpx.AsyncClient(transport=transport, base_url="https://door") as client:
            return (await client.post("/v1/fleet/pull-messages", content=b"")).status_code

    assert asyncio.run(once()) == 503
