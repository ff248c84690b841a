"""A region's replies as one: what an aggregator adds up, and how the coordinator takes it apart again.

Of plain replies an aggregator makes the weighted mean, and the coordinator gets it as the reply of the region's first
child, with the examples of all; it has no replies of the others. Of replies under secure aggregation (`secagg+`) it adds
the masked vectors up: the coordinator gets the sum as the first child's vector and zeros as the others', each with what
its child says in the protocol, so that the sum over all and every check of the protocol are what they would be without
the region. A vector under encryption has no such sum here.

Who learns what: an aggregator learns what it adds up. Plain replies are plain to it; masked vectors tell it nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from fedcore.flower import NDArray, array_record, arrays_in, error_reply, ndarrays
from fedcore.jobs.request import REGION, SECURE, USAGE
from fedcore.participant.means import RunningMean
from fedcore.participant.protected import MASKED


class RegionSum:
    """Replies of a region, added up as they come.

    Attributes:
        errors: Node to the error of its reply: code and reason.
        added: Nodes whose replies are in, in their order.
    """

    def __init__(self) -> None:
        self.added: list[int] = []
        self.errors: dict[int, tuple[int, str]] = {}
        self._told: dict[int, ConfigRecord] = {}
        self._used: dict[int, ConfigRecord] = {}
        self._vector: NDArray | None = None
        self._mean: RunningMean | None = None

    def add(self, reply: Message) -> None:
        """Add a child's reply.

        Args:
            reply: An error is kept as one. So is a reply that does not fit to the first.
        """
        node = reply.metadata.src_node_id
        if reply.has_error():
            self.errors[node] = reply.error.code, reply.error.reason or ""
            return
        record = reply.content.get(SECURE)
        if isinstance(record, ConfigRecord):
            problem = self._add_masked(node, record, reply.content)
        elif self._vector is not None:
            problem = "its reply is not protected, and those of others are"
        else:
            problem = self._add_plain(reply.content)
        if problem is None:
            self.added.append(node)
            used = reply.content.get(USAGE)
            if isinstance(used, ConfigRecord):
                self._used[node] = used
        else:
            self.errors[node] = 0, problem

    def _add_masked(self, node: int, record: ConfigRecord, content: RecordDict) -> str | None:
        arrays = arrays_in(content)
        vector = ndarrays(arrays[0]).get(MASKED) if len(arrays) == 1 else None
        if self._mean is not None:
            return "its reply is protected, and those of others are not"
        if vector is None or vector.dtype not in (np.uint32, np.uint64) or vector.ndim != 1:
            return "its reply holds no masked vector of words, which is all that a region adds up"
        if self._vector is None:
            self._vector = np.array(vector)
        elif (vector.dtype, vector.shape) != (self._vector.dtype, self._vector.shape):
            return f"its vector has {len(vector)} words of {vector.dtype}, the others' {len(self._vector)}"
        else:
            self._vector += vector
        self._told[node] = record
        return None

    def _add_plain(self, content: RecordDict) -> str | None:
        mean = self._mean or RunningMean()
        try:
            mean.add(content)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            return f"its reply cannot be averaged ({type(error).__name__})"
        self._mean = mean
        return None

    def content(self) -> RecordDict:
        """As it travels to the coordinator."""
        about: dict[str, Any] = {
            "added": self.added,
            "errors": {str(node): told for node, told in self.errors.items()},
        }
        content = RecordDict({REGION: ConfigRecord({"about": json.dumps(about)})})
        if self._vector is not None:
            content["arrays"] = array_record({MASKED: self._vector})
            content.update({f"{SECURE} {node}": record for node, record in self._told.items()})
        elif self._mean is not None:
            content.update(self._mean.content())
        # What each child says of its use, signed by it, goes on as it is.
        content.update({f"{USAGE} {node}": record for node, record in self._used.items()})
        return content


def apart(content: RecordDict, asked: Mapping[int, Message]) -> Iterator[Message]:
    """The replies of a region's children, as far as there are any.

    Args:
        content: As `RegionSum.content` made it.
        asked: The message to each child, by node.

    Raises:
        ValueError: It is no such content, or of other children.
    """
    record = content.get(REGION)
    try:
        about = json.loads(str(record["about"])) if isinstance(record, ConfigRecord) else {}
        added = [int(node) for node in about["added"]]
        errors = {int(node): (int(code), str(reason)) for node, (code, reason) in about["errors"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("what came is no reply of a region") from error
    if len({*added, *errors}) != len(added) + len(errors) or not {*added, *errors} <= set(asked):
        raise ValueError("the reply of a region is of other children than were asked")
    for node, (code, reason) in errors.items():
        yield error_reply(asked[node], reason, code)
    if not added:
        return
    arrays = arrays_in(content)
    masked = [f"{SECURE} {node}" for node in added]
    if not any(name in content for name in masked):
        plain = RecordDict({name: each for name, each in content.items() if name != REGION})
        plain[REGION] = ConfigRecord({"children": len(added)})
        yield Message(plain, reply_to=asked[added[0]])
        return
    total = ndarrays(arrays[0]).get(MASKED) if len(arrays) == 1 else None
    if total is None or not all(isinstance(content.get(name), ConfigRecord) for name in masked):
        raise ValueError("the reply of a region lacks a sum, or what a child says of its vector")
    nothing = np.zeros_like(total)
    for place, (node, name) in enumerate(zip(added, masked, strict=True)):
        vector = nothing if place else total
        child = RecordDict({MASKED: array_record({MASKED: vector}), SECURE: content[name]})
        used = f"{USAGE} {node}"
        if used in content:
            child[used] = content[used]
        yield Message(child, reply_to=asked[node])
