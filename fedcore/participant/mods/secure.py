"""The layer that lets an update out under masks or encryption only, so that the coordinator learns sums.

In any Flower `ClientApp`:

    app = ClientApp(mods=[secure_aggregation_mod])

It answers the protocol's own messages without the task. Of a train or evaluate message it lets the task run, and
sends its arrays, metrics and number of examples as one protected vector; nothing else of the task's reply leaves.
So it does with the arrays of a reply that goes into an exact sum (`sums`). What the coordinator said that the vector
depends on is bound to it (`made_of`): no sum is opened over vectors that were made of different models.
The coordinator names the protocol (`protocols`, one file each); what the participant requires of it and assumes of
the cohort is its own: a coordinator that asks for less is refused.

Between messages its secrets stand in the node's context, which Flower keeps at the node.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from crypto.errors import ProtocolError
from crypto.secagg.graph import Assumptions
from crypto.signatures import Authenticator
from crypto.streams import CIPHERS
from fedcore.errors import FedcoreError, IdentityError, JobError, PolicyRefused, ProtocolFailed
from fedcore.flower import array_record, arrays_in, digest_of, error_reply, metrics_in, ndarrays
from fedcore.jobs.participant import Participant as Site
from fedcore.jobs.request import PRIVATE, SECURE, TOTALS
from fedcore.participant.meeting import identity_of
from fedcore.participant.mods.protocols.base import ACTIVE, PROTOCOLS, STEP, Agreed, Driver, Told, needs
from fedcore.participant.mods.protocols.secagg import Masks
from fedcore.participant.mods.protocols.shared_key import SharedKey
from fedcore.participant.mods.protocols.threshold import Threshold
from fedcore.participant.mods.protocols.vectors import form_of, vector_of
from fedcore.participant.protected import MASKED, Form
from fedcore.participant.protected_steps import StepForm
from fedcore.participant.sums import SumForm
from fedcore.trust.signing import authenticator

STATE = "fedcore.secure"
"""Name of the ConfigRecord in the node's context."""
KEPT = 3
"""Sessions of which the secrets are kept."""
PROTECTED = ("train", "evaluate")

# A message that was given up may still be worked on while the next one is answered; the state goes one way only.
_locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
# What `restore` would make of a state again, for a process that answers the next message too. Taken out while in use,
# so that what a failed step left half done is not met again.
_live: OrderedDict[tuple[int, bytes], tuple[bytes, Driver]] = OrderedDict()
_MOST_LIVE = 4096


@dataclass(frozen=True)
class Own:
    """What a participant brings to the protocol and asks of it.

    Args:
        name: Its own, as the coordinator knows it.
        assumptions: The weakest it takes part under.
        authenticator: Of its identity and the pinned ones; None where the coordinator is trusted with keys.
        plain: Whether it answers a train or evaluate message that is not protected.
        protocols: That it takes part in.
        ciphers: Of the masks of `secagg+` that it uses.
        personal: Whether it takes part where each participant is sent another model or other settings.
        device: To round and mask on where the cipher is one for GPUs: `auto`, `cuda`, `cuda:N`; `cpu` for none.
    """

    name: str
    assumptions: Assumptions = field(default_factory=Assumptions)
    authenticator: Authenticator | None = None
    plain: bool = False
    protocols: tuple[str, ...] = PROTOCOLS
    ciphers: tuple[str, ...] = CIPHERS
    personal: bool = False
    device: str = "cpu"


def secure_aggregation(own: Callable[[Message, Context], Own]) -> Mod:
    """The mod.

    Args:
        own: Gives what the participant whose turn it is brings; asked for every message.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        mine = own(message, context)
        record = message.content.get(SECURE)
        if not isinstance(record, ConfigRecord):
            if _protected(message) and not mine.plain:
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
            return self.reply({"message": self._enter()})
        me = self.participant()
        told = me.answer(self.stage, self.number, self.body, self.about)
        if told is None:
            raise JobError(f"secure aggregation has no stage {self.stage!r} here", step=STEP)
        self.keep(me)
        return self.reply(told)

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

    def participant(self) -> Driver:
        """As it was after the last message of this session."""
        held, name = self.held(), self.session.hex()
        kept = _live.pop((self.context.node_id, self.session), None)
        if kept is not None and kept[0] == held[name]:
            return kept[1]
        agreed = self.agreed()
        saved: bytes = held[name]  # type: ignore[assignment]
        return _driver(agreed.protocol).restore(saved, agreed, self.own.authenticator)

    def agreed(self) -> Agreed:
        """What was agreed on in this session."""
        return Agreed.from_json(str(self.held()[f"{self.session.hex()} agreed"]))

    def keep(self, me: Driver, agreed: Agreed | None = None) -> None:
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
        if agreed is not None:
            kept[f"{name} agreed"] = agreed.to_json()
        sessions = [each for each in kept if not each.endswith(" agreed")]
        for old in sessions[:-KEPT]:
            del kept[old], kept[f"{old} agreed"]
        self.context.state[STATE] = ConfigRecord(kept)

    def _enter(self) -> bytes:
        held = self.context.state.get(STATE)
        if isinstance(held, ConfigRecord) and self.session.hex() in held:
            raise ProtocolFailed("this session was entered before; each has a name of its own", step=STEP)
        agreed = Agreed.from_json(self.about)
        lacking = weaker(agreed.assumptions, self.own.assumptions) or _unfit(agreed, self.own)
        if lacking is not None:
            raise PolicyRefused(
                f"secure aggregation as the coordinator asks for it protects less than this participant requires: "
                f"{lacking} (policy.secure_aggregation)",
                step=STEP,
            )
        missing = needs(agreed.protocol)
        if missing is not None:
            raise JobError(missing, step=STEP)
        me = _driver(agreed.protocol).enter(self.own.name, self.session, agreed, self.own.authenticator)
        self.keep(me, agreed)
        return me.advert()

    def reply(self, told: Told) -> Told:
        """What the record of the reply holds."""
        return {"stage": self.stage, **told}


def _unfit(agreed: Agreed, own: Own) -> str | None:
    """What is wrong with a protocol for a participant."""
    if agreed.protocol not in own.protocols:
        return f"protocol is {agreed.protocol}, allowed are {', '.join(own.protocols)}"
    if agreed.protocol == "secagg+" and agreed.cipher not in own.ciphers:
        return f"cipher is {agreed.cipher}, allowed are {', '.join(own.ciphers)}"
    if agreed.assumptions.adversary == "active" and agreed.protocol not in ACTIVE:
        return f"{agreed.protocol} holds against a coordinator that follows it only; {', '.join(ACTIVE)} hold against any"
    return None


_DRIVERS: dict[str, type[Driver]] = {
    "secagg+": Masks,
    "threshold": Threshold,
    "ckks": SharedKey,
    "paillier": SharedKey,
}


def _driver(protocol: str) -> type[Driver]:
    """The participant's half of a protocol."""
    return _DRIVERS[protocol]


def _masked(asked: _Asked, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let the task run, and protect its vector."""
    if not _protected(message):
        raise JobError(f"a message of type {message.metadata.message_type} is not masked", step=STEP)
    form = form_of(asked.about)
    same = not isinstance(form, Form) or form.changes
    if not same and not asked.own.personal:
        raise PolicyRefused(
            "each participant is sent another model or other settings, with which a coordinator could single one out; "
            "this participant takes part only where all are sent the same (policy.secure_aggregation, personal)",
            step=STEP,
        )
    # Before the work, so that it is not done in vain; and again after it, since it takes its time.
    asked.held()
    before = {
        name: value for record in arrays_in(message.content) for name, value in ndarrays(record).items()
    }
    del message.content[SECURE]
    made_of = _made_of(message, asked.about, same)
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    _refuse_less_noise(asked, reply, form)
    arrays, metrics = arrays_in(reply.content), metrics_in(reply.content)
    wanted = 0 if isinstance(form, SumForm) else 1
    if len(arrays) > 1 or len(metrics) != wanted:
        raise JobError(
            f"the reply has {len(arrays)} records of arrays and {len(metrics)} of metrics; under secure aggregation "
            f"at most one and exactly {wanted} are expected",
            step=STEP,
        )
    told_arrays = ndarrays(arrays[0]) if arrays else {}
    vector, layout, add = vector_of(
        told_arrays, before, metrics[0] if metrics else {}, form, asked.agreed().cipher, asked.own.device
    )
    with _locks[context.node_id]:
        me = asked.participant()
        if add is not None and isinstance(me, Masks):
            hidden, told = me.protect(asked.number, asked.body, vector, form, made_of, add)
        else:
            hidden, told = me.protect(asked.number, asked.body, vector, form, made_of)
        asked.keep(me)
    record = ConfigRecord(asked.reply({**told, "about": layout.to_json()}))
    return Message(RecordDict({MASKED: array_record({MASKED: hidden}), SECURE: record}), reply_to=message)


def _refuse_less_noise(asked: _Asked, reply: Message, form: Form | SumForm | StepForm) -> None:
    """Refuse to put an update with a share of noise into a sum that may have less of it than was promised.

    Raises:
        PolicyRefused: The sum is of another form, or may have too few participants.
    """
    noised = reply.content.get(PRIVATE)
    if not isinstance(noised, ConfigRecord):
        if isinstance(form, StepForm):
            raise JobError(
                "the coordinator asks for a sum of whole numbers, which this update is not", step=STEP
            )
        return
    agreed = asked.agreed()
    least, present = agreed.assumptions.least_cohort, int(noised["present"])  # type: ignore[arg-type]
    exact = isinstance(form, StepForm | SumForm)
    if not exact or least < present:
        raise PolicyRefused(
            f"the noise is enough in an exact sum of {present} participants or more; the coordinator asks for one of "
            f"{least} or more{'' if exact else ' that rounds'} (least_cohort)",
            step=STEP,
        )


def _protected(message: Message) -> bool:
    """Whether a message asks for what leaves under protection only."""
    kind = message.metadata.message_type
    return kind == TOTALS or kind.split(".")[0] in PROTECTED


def _made_of(message: Message, about: str, same: bool) -> bytes:
    """Digest of what a vector is made of, 32 bytes: the form; and where all are sent the same, everything else."""
    state = hashlib.sha256(b"fedcore made of 1")
    told = [about, message.metadata.message_type]
    if same:
        told.append(digest_of(message.content))
        for name, record in sorted(message.content.items()):
            if isinstance(record, ConfigRecord):
                told += [name, *(f"{key}={value!r}" for key, value in sorted(record.items()))]
    for text in told:
        raw = text.encode()
        state.update(len(raw).to_bytes(8, "little") + raw)
    return state.digest()


def own_of(participant: Site, signed: bool, device: str = "cpu") -> Own:
    """What a participant's own file says.

    Args:
        participant: Whose.
        signed: Keys are signed by its identity and checked with those that it pins.
        device: That the job is worked on, as the job says it.

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
    protocols = PROTOCOLS if policy.protocols == "any" else policy.protocols
    ciphers = CIPHERS if policy.ciphers == "any" else policy.ciphers
    given = device if participant.resources.gpus == "auto" else "cpu"
    return Own(
        participant.name,
        assumptions,
        signs,
        protocols=protocols,
        ciphers=ciphers,
        personal=policy.personal,
        device=given,
    )


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
