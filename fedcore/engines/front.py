"""The door to a coordinator that other machines can reach: lets Flower's Fleet API through, and nothing else.

Flower's open build serves three APIs on one port: Fleet (SuperNodes; each call is signed by the node's key),
Control (`flwr run`, `flwr supernode register`) and Runtime (tasks). The last two ask nobody who they are, so
whoever reaches the port can run code and let nodes in. Therefore the SuperLink listens on loopback, and this
process stands on the public address. It matches each request against a table of ten paths and forwards to a
path of its own table, never to one that a client spelt.

What it does not do: it does not authenticate. That is left to Flower's own check of each Fleet call, over TLS.
"""

from __future__ import annotations

import argparse
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

FLEET = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
"""The calls that a SuperNode with a registered key makes. Registering itself is not one of them."""

LARGEST_BODY = 512 * 2**20
"""Bytes of one request. Flower cuts arrays into pieces of 5 MB; a ConfigRecord travels in one piece."""

_TABLE = {"/health": "GET", **{f"/v1/fleet/{call}": "POST" for call in FLEET}}
# Belong to one connection, not to the message (RFC 9110, 7.6.1); the forwarded-for family would let a client
# choose the address that the SuperLink logs.
_NOT_FORWARDED = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
    ]
)
# A pull of a large object may take its time; a dead SuperLink is noticed at once.
_TIMEOUT = httpx.Timeout(120.0, connect=5.0)


def create_app(upstream: str, transport: httpx.AsyncBaseTransport) -> Starlette:
    """The door, as an ASGI app.

    Args:
        upstream: `https://host:port` of the SuperLink.
        transport: How it is reached.
    """
    client = httpx.AsyncClient(base_url=upstream, transport=transport, timeout=_TIMEOUT)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    async def door(request: Request) -> Response:
        path = request.scope["path"]
        if path not in _TABLE:
            return PlainTextResponse(
                "this door leads to the Fleet API only; control and runtime are reached from the coordinator's "
                "own machine\n",
                403,
            )
        method = _TABLE[path]
        if request.method not in (method, "HEAD" if method == "GET" else method):
            return PlainTextResponse(f"allowed: {method}\n", 405, {"Allow": method})
        if method == "POST" and (refused := _too_much(request.headers.get("content-length"))):
            return refused
        # `path` equals a key of the table here; a query could only confuse, no call has one.
        outward = client.build_request(
            request.method,
            path,
            headers=_kept(request.headers.items()),
            content=request.stream() if method == "POST" else None,
        )
        try:
            answer = await client.send(outward, stream=True)
        except httpx.TransportError:
            # 503 is what SuperNodes wait and try again for.
            return PlainTextResponse("the SuperLink does not answer\n", 503)
        return StreamingResponse(
            answer.aiter_raw(),
            answer.status_code,
            dict(_kept(answer.headers.items())),
            background=BackgroundTask(answer.aclose),
        )

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"]
    return Starlette(routes=[Route("/{path:path}", door, methods=methods)], lifespan=lifespan)


def _too_much(length: str | None) -> Response | None:
    """A refusal of a body of unknown or excessive length: the SuperLink would hold it in memory unsigned."""
    if length is None or not length.isdecimal():
        return PlainTextResponse("a Content-Length is needed\n", 411)
    if int(length) > LARGEST_BODY:
        return PlainTextResponse(f"allowed: bodies up to {LARGEST_BODY} bytes\n", 413)
    return None


def _kept(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in _NOT_FORWARDED]


def main() -> None:
    """The process that `fedcore federation up` starts when the coordinator listens beyond loopback."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--superlink", required=True, help="host:port on loopback")
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    arguments = parser.parse_args()
    verify = ssl.create_default_context(cafile=str(arguments.ca))
    transport = httpx.AsyncHTTPTransport(verify=verify, limits=httpx.Limits(max_connections=None))
    uvicorn.run(
        create_app(f"https://{arguments.superlink}", transport),
        host=arguments.host,
        port=arguments.port,
        ssl_certfile=str(arguments.certificate),
        ssl_keyfile=str(arguments.key),
        limit_concurrency=512,
        access_log=False,
        server_header=False,
        # The SuperLink would otherwise be told addresses by whoever asks.
        proxy_headers=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
