"""The grid under which the coordinator learns the sum of a cohort's updates, and none of them.

In any Flower `ServerApp`, over participants with `fedcore.participant.mods.secure` among their mods:

    strategy.start(SecureAggregationGrid(grid), initial_arrays, num_rounds=10)

A train or evaluate exchange becomes the stages of a protocol (`protocols`, one file each), and the strategy gets one
reply: the weighted mean of arrays and metrics, `num-examples` the sum. Every other message passes through. Keys are
agreed on once, in front of the first exchange, and again when the cohort changes by more than may drop out. What a
strategy that needs each update makes of the mean is not what it would make of the updates: fedcore's jobs refuse it,
here nobody does.

An exchange that is left with fewer participants than a sum needs gives no reply at all; the next one can go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from crypto.errors import ProtocolError
from crypto.secagg.graph import Assumptions
from crypto.secagg.protocol import RoundFailed
from crypto.signatures import Authenticator
from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.mean import EXAMPLES, metric_record
from fedcore.coordinator.grids.protocols.base import Session
from fedcore.coordinator.grids.protocols.secagg import MaskSession
from fedcore.coordinator.grids.protocols.shared_key import SharedKeySession
from fedcore.coordinator.grids.protocols.threshold import ThresholdSession
from fedcore.coordinator.grids.secure_account import Account
from fedcore.coordinator.grids.secure_stages import Stages, alike, record, told_bytes, told_text
from fedcore.flower import NDArray, array_record, arrays_in, ndarrays
from fedcore.jobs.request import SECURE
from fedcore.jobs.secure import MaskCipher, SumProtocol
from fedcore.participant.mods.protocols.base import ACTIVE, CIPHERS, KEY_BITS, PROTOCOLS, Agreed, needs
from fedcore.participant.protected import MASKED, Form, Layout, same_metrics, unpack
from fedcore.participant.protected_steps import StepForm, StepLayout, unpack_steps
from fedcore.participant.sums import SumForm, SumLayout, unpack_sums

log = logging.getLogger("fedcore.coordinator")

T = TypeVar("T")
L = TypeVar("L", Layout, SumLayout, StepLayout)

PATIENCE = 60.0
PROTECTED = ("train", "evaluate")
KEPT = 2
"""Sessions: a sampled cohort that trains, and all that evaluate."""
EXACT = 1e-4
"""Of the clip: a mean that may be further off is warned of."""
CHECKS = 64
"""Known values in a vector, from which the error of a mean is measured."""


class SecureAggregationGrid(Layer):
    """Sums train and evaluate replies under masks or encryption.

    Args:
        grid: Any Flower grid.
        assumptions: About the cohort. A participant refuses what protects less than its own.
        protocol: `secagg+`, `threshold`, `ckks` or `paillier`.
        clip: Largest change of a weight in a round; what is larger is cut to it, and counted.
        bits: Of the modulus, 32 or 64.
        largest_weight: Examples that one participant can have.
        key_bits: Of Paillier's key.
        cipher: Of the masks of `secagg+`.
        name_of: Participant by node id, as it calls itself; the number itself when None.
        authenticator: Checks keys with the pinned identities; None where they are not signed.
        control: Type of the protocol's own messages; that of the exchange when None, which every `ClientApp` knows.
        patience: Seconds to wait in a stage without work.
        refused: Told a participant's name and why when what it sent cannot be used.
        stage: Told the name of each stage before it begins.
        steps: Updates are whole numbers with noise: the strategy's reply has their sums, int64, and in the place of
            `num-examples` how many participants are in them. Under `secagg+` only.

    Attributes:
        account: Of the last exchange.

    Raises:
        ValueError: There is no such protocol or cipher, or it cannot hold what is assumed.
        ModuleNotFoundError: It needs a package that is not installed.
    """

    def __init__(
        self,
        grid: Grid,
        assumptions: Assumptions | None = None,
        *,
        protocol: SumProtocol = "secagg+",
        clip: float = 8.0,
        bits: int = 32,
        largest_weight: int = 2**16,
        key_bits: int = KEY_BITS,
        cipher: MaskCipher = "aes",
        name_of: Callable[[int], str] | None = None,
        authenticator: Authenticator | None = None,
        control: str | None = None,
        patience: float = PATIENCE,
        refused: Callable[[str, str], None] | None = None,
        stage: Callable[[str], None] | None = None,
        steps: bool = False,
    ) -> None:
        super().__init__(grid)
        self.agreed = Agreed(assumptions or Assumptions(), protocol, key_bits, cipher)
        unfit(self.agreed, bits)
        self.assumptions = self.agreed.assumptions
        self.clip, self.bits, self.largest_weight = clip, bits, largest_weight
        self.name_of = name_of or str
        self.authenticator = authenticator
        self.control, self.patience = control, patience
        self._refused = refused or (lambda name, why: None)
        self._stage = stage or (lambda name: None)
        self.steps = steps
        self._sessions: list[Session] = []
        self._metrics: dict[str, tuple[str, ...]] = {}
        self.account = Account(0, protocol)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Of the grid below.

        Raises:
            ValueError: A train or evaluate message: one that is pushed and pulled has no protection.
        """
        pushed = list(messages)
        if any(_kind(message) in PROTECTED for message in pushed):
            raise ValueError("train and evaluate messages are protected in send_and_receive only; use that")
        return self.below.push_messages(pushed)

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """At most one reply to a train or evaluate exchange: weighted means; all replies to any other."""
        asked = list(messages)
        if not asked or _kind(asked[0]) not in PROTECTED:
            yield from super().stream(asked, timeout)
            return
        reply = self._accounted(asked, lambda: self._protected(asked, timeout))
        if reply is not None:
            yield reply

    def sums(self, messages: Iterable[Message], timeout: float | None) -> dict[str, NDArray] | None:
        """Exact sums over the cohort of the arrays in its replies, under `secagg+`.

        Args:
            messages: One for each participant; the task's reply to it holds one record of arrays, all to be summed.
            timeout: Seconds.

        Returns:
            float64 by name; None when too few were left, and `account` says why.

        Raises:
            ValueError: The grid's protocol is another.
        """
        if self.agreed.protocol != "secagg+":
            raise ValueError(f"exact sums are made under secagg+, not {self.agreed.protocol}")
        asked = list(messages)
        return self._accounted(asked, lambda: self._summed(asked, timeout))

    def _accounted(self, asked: list[Message], work: Callable[[], T]) -> T | None:
        self.account = Account(len(asked), self.agreed.protocol)
        try:
            return work()
        except RoundFailed as error:
            self.account.failed = str(error)
            self.account.blamed = sorted({*self.account.blamed, *error.blamed})
            log.warning("secure aggregation: %s", error)
            return None

    # ---- once a session ---------------------------------------------------------------------------------

    def _met(self, stages: Stages, nodes: Mapping[str, int]) -> Session:
        """The session of these participants; a new one where too many of the old are missing or new ones came."""
        for old in reversed(self._sessions):
            missing = len(old.nodes) - len(nodes)
            if (
                not old.stale
                and set(nodes.values()) <= set(old.nodes.values())
                and missing <= self.assumptions.dropout * len(old.nodes)
            ):
                # Last is what was used last.
                self._sessions = [*(each for each in self._sessions if each is not old), old]
                return old
        session = _SESSIONS[self.agreed.protocol](self.agreed, self.authenticator)
        session.meet(stages, nodes)
        self._sessions = [*(old for old in self._sessions if not old.stale), session][-KEPT:]
        return session

    # ---- each exchange ----------------------------------------------------------------------------------

    def _begun(self, asked: list[Message]) -> tuple[Stages, Session, dict[str, bytes]]:
        """The session of those that are asked, its next round, and what goes with the work to each."""
        kind = asked[0].metadata.message_type
        nodes = {
            self.name_of(message.metadata.dst_node_id): message.metadata.dst_node_id for message in asked
        }
        stages = Stages(
            super().stream,
            self.account,
            self.name_of,
            self.control or kind,
            self.patience,
            self._refused,
            self._stage,
        )
        session = self._met(stages, nodes)
        self.account.threshold, self.account.neighbours = session.threshold, session.neighbours
        self.account.holders = session.holders
        bodies = session.begin(stages, {name: nodes[name] for name in session.nodes if name in nodes})
        return stages, session, bodies

    def _summed(self, asked: list[Message], timeout: float | None) -> dict[str, NDArray]:
        stages, session, bodies = self._begun(asked)
        form = SumForm(session.size)
        layouts, _ = self._collect(stages, session, bodies, asked, form, SumLayout.from_json, timeout)
        total = session.open(stages)
        try:
            sums, count = unpack_sums(total, layouts[0], form)
        except ValueError as error:
            raise session.failed("mean", len(layouts), session.least, str(error)) from error
        self.account.summed = count
        return sums

    def _protected(self, asked: list[Message], timeout: float | None) -> Message:
        kind = asked[0].metadata.message_type
        stages, session, bodies = self._begun(asked)
        if self.steps and kind == "train":
            return self._in_steps(stages, session, bodies, asked, timeout)
        form = Form(
            self.clip,
            session.size,
            self.largest_weight,
            self.bits,
            self._metrics.get(kind, ()),
            changes=alike(asked),
            checks=CHECKS,
        )
        layouts, first = self._collect(stages, session, bodies, asked, form, Layout.from_json, timeout)
        total = session.open(stages)
        before = {
            name: value for record in arrays_in(asked[0].content) for name, value in ndarrays(record).items()
        }
        return self._reply(session, first, total, layouts, form, before, kind)

    def _in_steps(
        self,
        stages: Stages,
        session: Session,
        bodies: Mapping[str, bytes],
        asked: list[Message],
        timeout: float | None,
    ) -> Message:
        form = StepForm(session.size, self.bits)
        layouts, reply = self._collect(stages, session, bodies, asked, form, StepLayout.from_json, timeout)
        total = session.open(stages)
        try:
            sums, count = unpack_steps(total, layouts[0], form)
        except ValueError as error:
            raise session.failed("mean", len(layouts), session.least, str(error)) from error
        self.account.summed = count
        reply.content = RecordDict(
            {"arrays": array_record(sums), "metrics": metric_record({EXAMPLES: count})}
        )
        return reply

    def _collect(
        self,
        stages: Stages,
        session: Session,
        bodies: Mapping[str, bytes],
        asked: list[Message],
        form: Any,
        read: Callable[[str], L],
        timeout: float | None,
    ) -> tuple[list[L], Message]:
        """Send the messages and add the protected vectors up; their layouts, and one of the replies."""
        messages, about = [], form.to_json()
        to = {self.name_of(message.metadata.dst_node_id): message for message in asked}
        for name, body in bodies.items():
            if name not in to:
                self.account.dropped.setdefault(name, "masked")
                continue
            message = to[name]
            told = record("masked", session.run, session.number, body, about)
            # One content may serve all messages of a strategy, so it is not added to.
            message.content = RecordDict({**message.content, SECURE: told})
            messages.append(message)
        layouts: list[L] = []
        first: Message | None = None
        for name, reply in stages.sent("masked", messages, timeout):
            found = reply.content.get(MASKED)
            with stages.using(name, "masked"):
                if found is None or len(arrays_in(reply.content)) != 1 or MASKED not in found:
                    raise ProtocolError(f"{name} sent no protected vector", step="masked")
                layout = read(told_text(reply.content, "about"))
                vector = ndarrays(arrays_in(reply.content)[0])[MASKED]
                if not layout.fits(layouts[0] if layouts else layout, form):
                    raise ProtocolError(
                        f"{name} sent a vector with other arrays than the others; use the same versions of the task "
                        "and of fedcore everywhere",
                        step="masked",
                    )
                words = layout.words(form)
                session.take(name, told_bytes(reply.content, "message"), vector, words, form)
                layouts.append(layout)
                first = first or reply
            session.ride(stages, name, reply.content)
        if first is None:
            raise session.failed("masked", 0, session.least)
        return layouts, first

    def _reply(
        self,
        session: Session,
        reply: Message,
        total: Any,
        layouts: list[Layout],
        form: Form,
        before: Mapping[str, Any],
        kind: str,
    ) -> Message:
        known, wanted = same_metrics([layout.metrics for layout in layouts], form)
        self._metrics[kind] = wanted
        if set(known) != set(wanted):
            log.warning(
                "some metrics of this round are not reported by all participants and come from the next on"
            )
        try:
            mean = unpack(total, Layout(layouts[0].arrays, known), before, form)
        except ValueError as error:
            raise session.failed("mean", len(layouts), session.least, str(error)) from error
        bound = form.narrow.error_bound(mean.weight, len(layouts))
        if mean.error is not None and mean.error > bound * (1 + 1e-6) + 1e-12 * form.clip:
            raise session.failed(
                "mean",
                len(layouts),
                session.least,
                f"values known to all came out of the sum with an error of {mean.error:.3g}, where {bound:.3g} is the "
                "bound: a participant sent what is no vector of its values",
            )
        if bound > EXACT * form.clip:
            log.warning(
                "the mean of this round is exact to %.2g of the clip only: the largest number of examples is %.3g times "
                "those of this sum's participants together; take bits: 64, or a smaller clip",
                bound / form.clip,
                form.largest_weight / mean.weight,
            )
        self.account.summed, self.account.clipped = len(layouts), mean.clipped
        self.account.error_bound, self.account.error = bound, mean.error
        content = RecordDict({"metrics": metric_record({EXAMPLES: mean.weight, **mean.metrics})})
        if mean.arrays:
            content["arrays"] = array_record(mean.arrays)
        reply.content = content
        return reply


_SESSIONS: dict[str, type[Session]] = {
    "secagg+": MaskSession,
    "threshold": ThresholdSession,
    "ckks": SharedKeySession,
    "paillier": SharedKeySession,
}


def unfit(agreed: Agreed, bits: int = 32) -> None:
    """Refuse what a protocol cannot do.

    Raises:
        ValueError: There is no such protocol, it holds against no active coordinator, or has no such words or cipher.
        ModuleNotFoundError: It needs a package that is not installed.
    """
    if agreed.protocol not in PROTOCOLS:
        raise ValueError(
            f"no protocol {agreed.protocol!r} of secure aggregation; allowed: {', '.join(PROTOCOLS)}"
        )
    if agreed.cipher not in CIPHERS or (agreed.cipher != "aes" and agreed.protocol != "secagg+"):
        raise ValueError(
            f"cipher is {agreed.cipher!r} under {agreed.protocol}; allowed: {', '.join(CIPHERS)}, others than aes under "
            "secagg+ only. Leave cipher out, or use secagg+"
        )
    if agreed.assumptions.adversary == "active" and agreed.protocol not in ACTIVE:
        raise ValueError(
            f"under {agreed.protocol} a coordinator that lies can have a single update decrypted: say that it is trusted "
            f"to follow the protocol (adversary: curious), or use {' or '.join(ACTIVE)}"
        )
    if agreed.protocol == "ckks" and bits != 32:
        raise ValueError(f"ckks sums words of 32 bits, not of {bits}; leave bits out, or use {ACTIVE[0]}")
    missing = needs(agreed.protocol)
    if missing is not None:
        raise ModuleNotFoundError(missing)


def _kind(message: Message) -> str:
    return message.metadata.message_type.split(".")[0]
