"""The layer that lets an update out under masks only, of which the coordinator learns the sum (`crypto.secagg`).

In any Flower `ClientApp`:

    app = ClientApp(mods=[secure_aggregation_mod])

It answers the protocol's own messages without the task. Of a train or evaluate message it lets the task run, and
sends its arrays, metrics and number of examples as one masked vector; nothing else of the task's reply leaves. What
it assumes of the cohort is the participant's own: a coordinator that asks for less is refused.

Between messages its secrets stand in the node's context, which Flower keeps at the node.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from crypto.errors import ProtocolError
from crypto.secagg.graph import Assumptions
from crypto.secagg.keys import Authenticator
from crypto.secagg.participant import Participant
from fedcore.errors import FedcoreError, IdentityError, JobError, PolicyRefused, ProtocolFailed
from fedcore.flower import array_record, arrays_in, error_reply, metrics_in, ndarrays
from fedcore.jobs.participant import Participant as Site
from fedcore.jobs.request import SECURE
from fedcore.participant.meeting import identity_of
from fedcore.participant.protected import MASKED, Form, pack
from fedcore.trust.signing import authenticator

STATE = "fedcore.secure"
"""Name of the ConfigRecord in the node's context."""
KEPT = 3
"""Sessions of which the secrets are kept."""
PROTECTED = ("train", "evaluate")
STEP = "secure aggregation"

Told = dict[str, Any]
"""What a reply carries."""

# A message that was given up may still be worked on while the next one is answered; the state goes one way only.
_locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
# What `restore` would make of a state again, for a process that answers the next message too. Taken out while in use,
# so that what a failed step left half done is not met again.
_live: OrderedDict[tuple[int, bytes], tuple[bytes, Participant]] = OrderedDict()
_MOST_LIVE = 4096


@dataclass(frozen=True)
class Own:
    """What a participant brings to the protocol and asks of it.

    Args:
        name: Its own, as the coordinator knows it.
        assumptions: The weakest it takes part under.
        authenticator: Of its identity and the pinned ones; None where the coordinator is trusted with keys.
        plain: Whether it answers a train or evaluate message that is not protected.
    """

    name: str
    assumptions: Assumptions = field(default_factory=Assumptions)
    authenticator: Authenticator | None = None
    plain: bool = False


def secure_aggregation(own: Callable[[Message, Context], Own]) -> Mod:
    """The mod.

    Args:
        own: Gives what the participant whose turn it is brings; asked for every message.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        mine = own(message, context)
        record = message.content.get(SECURE)
        if not isinstance(record, ConfigRecord):
            if message.metadata.message_type.split(".")[0] in PROTECTED and not mine.plain:
                raise PolicyRefused(
                    "the message is not protected, and this participant answers train and evaluate messages under "
                    "secure aggregation only",
                    step=STEP,
                )
            return call_next(message, context)
        try:
            asked = _Asked(record, context, mine)
            if asked.stage == "masked":
                return _masked(asked, message, context, call_next)
            with _locks[context.node_id]:
                told = asked.answer()
        except ProtocolError as error:
            raise ProtocolFailed(error.message, step=error.step) from error
        return Message(RecordDict({SECURE: ConfigRecord(told)}), reply_to=message)

    return mod


def weaker(asked: Assumptions, own: Assumptions) -> str | None:
    """What a coordinator asks a participant to do without; None when its assumptions hold all of the own.

    Example:
        >>> weaker(Assumptions(least_cohort=2), Assumptions())
        'least_cohort is 2, at least 3 is required'
    """
    for what in ("least_cohort", "corrupt", "security", "enrolled"):
        given, needed = getattr(asked, what), getattr(own, what)
        if given < needed:
            return f"{what} is {given}, at least {needed} is required"
    if own.adversary == "active" and asked.adversary != "active":
        return f"adversary is {asked.adversary}, active is required"
    return None


class _Asked:
    """One message of the protocol at a participant."""

    def __init__(self, record: ConfigRecord, context: Context, own: Own) -> None:
        try:
            self.stage, self.session = str(record["stage"]), bytes(record["session"])  # type: ignore[arg-type]
            self.number, self.body = int(record["number"]), bytes(record["message"])  # type: ignore[arg-type]
            self.about = str(record["about"])
        except (KeyError, TypeError, ValueError) as error:
            raise JobError("the coordinator's message is none of secure aggregation", step=STEP) from error
        self.context, self.own = context, own

    def answer(self) -> Told:
        """Of every stage but `masked`."""
        if self.stage == "keys":
            return self._reply(self._enter())
        me = self.participant()
        if self.stage == "roster":
            me.meet(self.body)
            reply = self._reply(b"", shares=me.shares(self.number))
        elif self.stage == "shares":
            return self._reply(b"", shares=me.shares(self.number))
        elif self.stage == "confirm":
            reply = self._reply(me.confirm(self.body))
        elif self.stage == "reveal":
            reply = self._reply(me.reveal(self.body))
        else:
            raise JobError(f"secure aggregation has no stage {self.stage!r} here", step=STEP)
        self.keep(me)
        return reply

    def held(self) -> ConfigRecord:
        """The states of all sessions, of which this is one.

        Raises:
            ProtocolFailed: It is not.
        """
        held = self.context.state.get(STATE)
        if not isinstance(held, ConfigRecord) or self.session.hex() not in held:
            raise ProtocolFailed(
                "this participant knows no such session: it was started anew, or has not met the others",
                step=STEP,
            )
        return held

    def participant(self) -> Participant:
        """As it was after the last message of this session."""
        held, name = self.held(), self.session.hex()
        kept = _live.pop((self.context.node_id, self.session), None)
        if kept is not None and kept[0] == held[name]:
            return kept[1]
        assumptions = Assumptions(**json.loads(str(held[f"{name} assumptions"])))
        return Participant.restore(bytes(held[name]), assumptions, self.own.authenticator)  # type: ignore[arg-type]

    def keep(self, me: Participant, assumptions: Assumptions | None = None) -> None:
        """Put the participant's state into the node's context; the oldest sessions are forgotten."""
        held = self.context.state.get(STATE)
        kept = dict(held) if isinstance(held, ConfigRecord) else {}
        name = self.session.hex()
        # Last is what was used last.
        kept.pop(name, None)
        saved = kept[name] = me.save()
        _live[self.context.node_id, self.session] = saved, me
        while len(_live) > _MOST_LIVE:
            _live.popitem(last=False)
        if assumptions is not None:
            kept[f"{name} assumptions"] = json.dumps(asdict(assumptions))
        sessions = [each for each in kept if not each.endswith(" assumptions")]
        for old in sessions[:-KEPT]:
            del kept[old], kept[f"{old} assumptions"]
        self.context.state[STATE] = ConfigRecord(kept)

    def _enter(self) -> bytes:
        held = self.context.state.get(STATE)
        if isinstance(held, ConfigRecord) and self.session.hex() in held:
            raise ProtocolFailed("this session was entered before; each has a name of its own", step=STEP)
        try:
            asked = Assumptions(**json.loads(self.about))
        except (ValueError, TypeError) as error:
            raise JobError(f"the coordinator's assumptions cannot be used: {error}", step=STEP) from error
        lacking = weaker(asked, self.own.assumptions)
        if lacking is not None:
            raise PolicyRefused(
                f"secure aggregation as the coordinator asks for it protects less than this participant requires: "
                f"{lacking} (policy.secure_aggregation)",
                step=STEP,
            )
        me = Participant(self.own.name, self.session, asked, self.own.authenticator)
        self.keep(me, asked)
        return me.advert()

    def _reply(self, body: bytes, **more: str | bytes) -> Told:
        return {"stage": self.stage, "message": body, **more}


def _masked(asked: _Asked, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let the task run, and put its vector under masks."""
    if message.metadata.message_type.split(".")[0] not in PROTECTED:
        raise JobError(f"a message of type {message.metadata.message_type} is not masked", step=STEP)
    form = Form.from_json(asked.about)
    # Before the work, so that it is not done in vain; and again after it, since it takes its time.
    asked.held()
    before = {
        name: value for record in arrays_in(message.content) for name, value in ndarrays(record).items()
    }
    del message.content[SECURE]
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    arrays, metrics = arrays_in(reply.content), metrics_in(reply.content)
    if len(arrays) > 1 or len(metrics) != 1:
        raise JobError(
            f"the reply has {len(arrays)} records of arrays and {len(metrics)} of metrics; under secure aggregation "
            "at most one and exactly one are expected",
            step=STEP,
        )
    vector, layout = pack(ndarrays(arrays[0]) if arrays else {}, before, metrics[0], form)
    with _locks[context.node_id]:
        me = asked.participant()
        me.begin(asked.body)
        body = me.mask(vector)
        shares = me.shares(asked.number + 1)
        asked.keep(me)
    told = asked._reply(body, shares=shares, about=layout.to_json())
    return Message(
        RecordDict({MASKED: array_record({MASKED: vector}), SECURE: ConfigRecord(told)}), reply_to=message
    )


def own_of(participant: Site, signed: bool) -> Own:
    """What a participant's own file says.

    Args:
        participant: Whose.
        signed: Keys are signed by its identity and checked with those that it pins.

    Raises:
        IdentityError: They are to be signed, and it has no key or pins nobody.
    """
    policy, peers = participant.policy.secure_aggregation, participant.peers
    assumptions = Assumptions(
        corrupt=policy.corrupt,
        dropout=0.0,
        adversary=policy.adversary,
        least_cohort=policy.least_cohort,
        # Whom it knows could all be asked into a cohort.
        enrolled=len(peers) + 1 if peers else 0,
    )
    signs = None
    if signed:
        if not peers:
            raise IdentityError(
                "secure aggregation needs the keys of the other participants pinned here (peers), or the coordinator "
                "could put its own in their place",
                step=STEP,
            )
        pins = {name: peer.public_key for name, peer in peers.items()}
        signs = authenticator(identity_of(participant), pins)
    return Own(participant.name, assumptions, signs)


def _anyone(message: Message, context: Context) -> Own:
    return Own(str(context.node_id))


_plain = secure_aggregation(_anyone)


def secure_aggregation_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """The mod for any `ClientApp`: default assumptions, keys not signed, nothing unprotected is answered.

    What the task raises is left to Flower; what this layer refuses comes as an error reply that says why.
    """
    try:
        return _plain(message, context, call_next)
    except FedcoreError as error:
        told = {"type": type(error).__name__, "message": error.message, "party": str(context.node_id)}
        return error_reply(message, json.dumps(told))
