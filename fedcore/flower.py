"""The one place that touches Flower's private names, and the records fedcore makes itself.

Everything else in fedcore uses Flower's public surface only (`flwr.app`, `flwr.clientapp`, `flwr.serverapp`,
its commands). An in-process `Grid` needs a few names that Flower keeps to itself; they stand here, and
`tests/fedcore/test_flower.py` holds a contract on each, so that an upgrade of Flower breaks there first.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt


def quiet_environment() -> dict[str, str]:
    """Environment that keeps Flower and Ray from phoning home: telemetry, update checks, usage statistics."""
    return {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


# flwr reads these when it is imported, so they are set before the first import below.
os.environ.update(quiet_environment())

from flwr.app import (  # noqa: E402
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects  # noqa: E402
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError, inflate_object_from_contents  # noqa: E402
from flwr.supercore.run import Run  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from flwr.clientapp import ClientApp

__all__ = [
    "APP_RAISED",
    "NODE_UNAVAILABLE",
    "Run",
    "array_record",
    "arrays_in",
    "base_array",
    "configs_in",
    "copy_content",
    "digest_of",
    "empty_run",
    "enter_process",
    "error_reply",
    "message_of",
    "metrics_in",
    "ndarrays",
    "payload_bytes",
    "quiet_environment",
    "release_node",
    "serve_installed_client_app",
    "stamp",
    "through_outage",
    "through_the_wire",
]

NDArray = npt.NDArray[Any]
T = TypeVar("T")

APP_RAISED: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
NODE_UNAVAILABLE: int = ErrorCode.NODE_UNAVAILABLE
_NUMPY = "numpy.ndarray"
_message_numbers = itertools.count(1)


class LazyArray(Array):
    """A Flower `Array` that keeps its ndarray and serialises only when somebody asks for the bytes.

    Flower's own `Array` writes `.npy` bytes when it is made and parses them on each `numpy()`. In one
    process nobody needs the bytes; for a model of a few million parameters these copies cost as much as the
    training step.
    """

    # Flower finds the class of a serialised object by this name; on the wire a LazyArray is an Array.
    __qualname__ = "Array"

    def __init__(self, ndarray: NDArray) -> None:
        self.__dict__.update(
            dtype=str(ndarray.dtype), shape=tuple(ndarray.shape), stype=_NUMPY, _ndarray=ndarray
        )

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The `.npy` bytes, made now and not kept."""
        buffer = BytesIO()
        np.save(buffer, self.__dict__["_ndarray"], allow_pickle=False)
        return buffer.getvalue()

    def numpy(self) -> NDArray:
        """A read-only view; several receivers in one process share the memory."""
        view: NDArray = self.__dict__["_ndarray"].view()
        view.flags.writeable = False
        return view


def array_record(arrays: Mapping[str, NDArray]) -> ArrayRecord:
    """An `ArrayRecord` over the given arrays, without copying them.

    Args:
        arrays: Name to ndarray (any shape and numeric dtype). The caller must not change them afterwards.
    """
    record = ArrayRecord()
    for name, value in arrays.items():
        record[name] = LazyArray(np.asarray(value))
    return record


def ndarrays(record: ArrayRecord) -> dict[str, NDArray]:
    """The record's arrays by name. Read-only: they may be shared."""
    return {name: array.numpy() for name, array in record.items()}


def base_array(array: Array) -> NDArray:
    """The array's memory for a reader that insists on a writable flag (torch). Not to be written to."""
    if isinstance(array, LazyArray):
        held: NDArray = array.__dict__["_ndarray"]
        return held if held.flags.writeable else held.copy()
    value = array.numpy()
    return value if value.flags.writeable else value.copy()


def arrays_in(content: RecordDict) -> list[ArrayRecord]:
    """The records of arrays in a message's content.

    Flower's own `array_records` builds a checked dict that mirrors writes, at each use; a coordinator that looks
    at a reply six times spends more on that than on the reply.
    """
    return [record for record in content.values() if isinstance(record, ArrayRecord)]


def metrics_in(content: RecordDict) -> list[MetricRecord]:
    """The records of metrics, as `arrays_in`."""
    return [record for record in content.values() if isinstance(record, MetricRecord)]


def configs_in(content: RecordDict) -> list[ConfigRecord]:
    """The records of settings, as `arrays_in`."""
    return [record for record in content.values() if isinstance(record, ConfigRecord)]


def payload_bytes(content: RecordDict) -> int:
    """Bytes of arrays, metrics and configuration in a message, without the wire format's own overhead."""
    total = 0
    for record in content.values():
        if isinstance(record, ArrayRecord):
            total += sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in record.values())
            total += sum(map(len, record))
            continue
        for key, value in record.items():
            total += len(key)
            for item in value if isinstance(value, list) else [value]:
                total += len(item) if isinstance(item, str | bytes) else 8
    return total


def digest_of(content: RecordDict) -> str:
    """SHA-256 over names, dtypes, shapes and values of all arrays in a message, in order."""
    state = hashlib.sha256()
    for record in content.values():
        if isinstance(record, ArrayRecord):
            for name, array in record.items():
                value = array.numpy()
                state.update(f"{name}\x1f{value.dtype.str}\x1f{value.shape}\x1f".encode())
                state.update(value.tobytes())
    return state.hexdigest()


def copy_content(content: RecordDict) -> RecordDict:
    """A copy whose configuration and metrics may be changed; arrays are shared."""
    copied: dict[str, Any] = {}
    for name, record in content.items():
        if isinstance(record, ConfigRecord):
            copied[name] = ConfigRecord(dict(record))
        elif isinstance(record, MetricRecord):
            copied[name] = MetricRecord(dict(record))
        else:
            copied[name] = record
    return RecordDict(copied)


def error_reply(message: Message, reason: str, code: int | None = None) -> Message:
    """A reply to `message` that carries an error."""
    return Message(Error(APP_RAISED if code is None else code, reason), reply_to=message)


def enter_process() -> None:
    """Give this process the identity that `Message(...)` wants, unless Flower gave it one."""
    if TaskIdentity._run_id is None:
        TaskIdentity.run_id = 1
        TaskIdentity.task_id = 1
        TaskIdentity.node_id = SUPERLINK_NODE_ID


def message_of(
    metadata: Metadata, *, content: RecordDict | None = None, error: Error | None = None
) -> Message:
    """A message with metadata that another process gave it.

    Args:
        metadata: Of the message.
        content, error: Exactly one of them.
    """
    return Message(content if error is None else error, metadata=metadata)  # type: ignore[call-overload,no-any-return]


def empty_run(run_id: int = 1) -> Run:
    """A `Run` without details, as an in-process grid shows it."""
    return Run.create_empty(run_id)


def stamp(message: Message) -> str:
    """Give a message the id that the SuperLink would give it; the id."""
    number = f"m{next(_message_numbers)}"
    message.metadata.__dict__["_message_id"] = number
    return number


def through_the_wire(message: Message) -> Message:
    """The message after Flower's own serialisation and parsing, as it would arrive over a network."""
    contents = {key: bytes(part.deflate()) for key, part in get_all_nested_objects(message).items()}
    arrived = inflate_object_from_contents(message.object_id, contents)
    if not isinstance(arrived, Message):
        raise TypeError(f"Flower inflated a {type(arrived).__name__} where a Message was sent")
    arrived.metadata.__dict__["_message_id"] = message.metadata.message_id
    return arrived


def through_outage(call: Callable[[], T], seconds: float = 60.0) -> T:
    """Call the SuperLink, and call again when it was killed and restarted in the middle of the call.

    Flower itself waits for a SuperLink that went away, in all but two cases. It takes every error whose text has
    "ssl" in it for a wrong certificate and gives up: also the end of a connection whose other side was killed just
    then. And a restarted SuperLink no longer knows the session in which a message's parts were being handed over;
    none of them was delivered, and they are handed over again.

    Args:
        call: Of a `Grid`.
        seconds: After which the error is raised.
    """
    import httpx

    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except (httpx.TransportError, ObjectPushError):
            if time.monotonic() >= end:
                raise
            time.sleep(0.5)


def serve_installed_client_app(load: Callable[[], ClientApp]) -> None:
    """Be Flower's `flwr-clientapp` process, but run the app that is installed here.

    Flower unpacks the bundle that came with the run and imports its modules. A site that does so runs whatever
    code the coordinator sends; here the bundle is neither unpacked nor imported.

    Args:
        load: Imports the installed app; called once, when the message has arrived.
    """
    from flwr.supernode.cli import flwr_clientapp
    from flwr.supernode.runtime import run_clientapp as flowers

    def keep_packed(*bundle: object, **options: object) -> None:
        return None

    def loader(**options: object) -> Callable[..., ClientApp]:
        return lambda *bundle: load()

    for name, ours in {"install_from_fab": keep_packed, "get_load_client_app_fn": loader}.items():
        if not hasattr(flowers, name):
            raise RuntimeError(f"Flower's run_clientapp has no {name} any more; refusing to run bundled code")
        setattr(flowers, name, ours)
    flwr_clientapp()


def release_node(superlink: str, authority: bytes, key: EllipticCurvePrivateKey, node: int) -> bool:
    """Say for a SuperNode that was killed what it would have said itself: that it is gone.

    The SuperLink otherwise takes it for alive for up to a minute: it lets its messages wait and refuses the one
    that is started in its place.

    Args:
        superlink: `host:port`.
        authority: The CA certificate (PEM) that vouches for it.
        key: The node's own key, with which the call is signed.
        node: The number that the SuperLink gave it.

    Returns:
        Whether the SuperLink took it for alive and now knows better.
    """
    import httpx
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    signer = NodeAuthHttpInterceptor(key, key.public_key())
    try:
        with FleetHttpClient.from_server_address(superlink, False, authority, [signer]) as client:
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
    except httpx.HTTPError:
        return False
    return True
