"""Sums under a key that nobody holds, at the coordinator (`crypto.rlwe`; the stages stand at the participant's half).

Stages: keys, roster, parts, joint; each round: masked, open. A holder that drops out while the key is made, has it made
anew without it; one that drops out while a sum is opened, has it opened by others.
"""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Mapping, Sequence

from crypto.errors import ProtocolError
from crypto.rlwe import messages
from crypto.rlwe.committee import drawn
from crypto.rlwe.decryption import Partial, Request, decrypt, key_part, request
from crypto.rlwe.encryption import Ciphertext, Context, add
from crypto.rlwe.keys import PublicKey, PublicPart, Setup, commitment, public_key
from crypto.secagg.keys import TAG
from crypto.secagg.protocol import RUN
from crypto.signatures import Authenticator
from fedcore.coordinator.grids.protocols.base import Words, as_words
from fedcore.coordinator.grids.protocols.member import MemberSession
from fedcore.coordinator.grids.secure_stages import Stages, told_bytes
from fedcore.participant.mods.protocols.base import Agreed
from fedcore.participant.mods.protocols.threshold import ABSENT, COMMITMENT, MADE_OF, OPENINGS, context_of
from fedcore.participant.protected import Form


class ThresholdSession(MemberSession):
    """Participants whose key nobody holds."""

    def __init__(self, agreed: Agreed, authenticator: Authenticator | None) -> None:
        super().__init__(agreed, authenticator)
        self._committee: tuple[str, ...] = ()
        self._key: PublicKey | None = None
        self._confirmed: dict[str, bytes] = {}
        self._keyed: set[str] = set()
        self._openings = 0
        self._context: Context | None = None
        self._total: Ciphertext | None = None
        self._form: Form | None = None
        self._parts: dict[str, list[bytes]] = {}
        self._made_of = b""
        self._tags: dict[str, bytes] = {}

    # ---- once a session ---------------------------------------------------------------------------------

    def meet(self, stages: Stages, nodes: Mapping[str, int]) -> None:
        """Make the joint key; anew without them when holders drop out meanwhile."""
        left = dict(nodes)
        while lost := self._attempt(stages, left):
            # Who did not send a key has dropped out, even if it is there again by now.
            left = {name: left[name] for name in self.roster.names if name not in lost}
            self.run = secrets.token_bytes(RUN)

    def _attempt(self, stages: Stages, nodes: Mapping[str, int]) -> set[str]:
        """Try to make a key; those without whom to try again, none when it is made."""
        adverts = self.advertise(stages, nodes)
        rules = self.enroll(adverts)
        names = self.roster.names
        self._committee = drawn(names, rules.holders, self.roster.binding)
        self.holders, self.threshold = rules.holders, rules.threshold
        raw = dict.fromkeys(names, self.roster.encode())
        committed = self._answers(stages, "roster", raw, nodes, None)
        there = {name: nodes[name] for name in committed}
        if lost := set(self._committee) - set(committed):
            return lost
        shown = self._answers(stages, "parts", self._commitments(committed), there, self._shown_size)
        if lost := set(self._committee) - set(shown):
            return lost
        setup = Setup(self.roster.binding, rules.holders, rules.threshold, len(names))
        found: list[PublicPart] = []
        commitments: dict[int, bytes] = {}
        for index, name in enumerate(self._committee, 1):
            with stages.using(name, "parts"):
                part = messages.read_public_part(shown[name][: messages.PUBLIC_PART], setup)
                if part.index != index or commitment(part) != committed[name][:COMMITMENT]:
                    raise ProtocolError(
                        f"the public part of {name} is not the one it committed to", step="parts"
                    )
                found.append(part)
                commitments[index] = committed[name][:COMMITMENT]
        if lost := {name for i, name in enumerate(self._committee, 1) if i not in commitments}:
            return lost
        self._key = public_key(setup, found, commitments)
        confirmed = self._answers(stages, "joint", self._dealt(shown), there, TAG * len(names))
        if len(confirmed) < rules.threshold:
            return set(self._committee) - set(confirmed)
        self._confirmed, self._keyed = confirmed, set(confirmed)
        self._openings = setup.releases(rules.threshold)
        gone = set(self._committee) - set(confirmed)
        self.nodes = {name: node for name, node in there.items() if name not in gone}
        return set()

    def _answers(
        self,
        stages: Stages,
        stage: str,
        bodies: Mapping[str, bytes],
        nodes: Mapping[str, int],
        size: int | None,
    ) -> dict[str, bytes]:
        """What came in a stage and has the length that it should have; None where holders alone send something."""
        found = {}
        for name, told in stages.exchange(stage, self.run, 0, bodies, nodes).items():
            with stages.using(name, stage):
                wanted = size
                if wanted is None:
                    among = name in self._committee
                    wanted = COMMITMENT + TAG * (len(self._committee) - 1) if among else 0
                message = told_bytes(told, "message")
                if len(message) != wanted:
                    raise ProtocolError(
                        f"{name} sent {len(message)} bytes, {wanted} are expected", step=stage
                    )
                found[name] = message
        return found

    @property
    def _shown_size(self) -> int:
        shared = self.threshold < self.holders
        return messages.PUBLIC_PART + shared * (self.holders - 1) * (messages.DEALT_SHARE + TAG)

    def _commitments(self, committed: Mapping[str, bytes]) -> dict[str, bytes]:
        """For each holder, all commitments with the tags for it."""
        return {
            name: b"".join(
                committed[other][:COMMITMENT] + self._piece(committed[other][COMMITMENT:], TAG, other, name)
                for other in self._committee
            )
            for name in self._committee
        }

    def _dealt(self, shown: Mapping[str, bytes]) -> dict[str, bytes]:
        """For each holder, all parts, and what was dealt to it."""
        parts = b"".join(shown[name][: messages.PUBLIC_PART] for name in self._committee)
        size = messages.DEALT_SHARE + TAG
        if self.threshold == self.holders:
            return dict.fromkeys(self._committee, parts)
        return {
            name: parts
            + b"".join(
                self._piece(shown[other][messages.PUBLIC_PART :], size, other, name)
                for other in self._committee
                if other != name
            )
            for name in self._committee
        }

    def _piece(self, pieces: bytes, size: int, sender: str, receiver: str) -> bytes:
        """Of what one holder sent for each other one, what is for this one; `ABSENT` for itself."""
        if sender == receiver:
            return ABSENT
        place = [name for name in self._committee if name != sender].index(receiver)
        return pieces[size * place : size * (place + 1)]

    # ---- each round -------------------------------------------------------------------------------------

    def begin(self, stages: Stages, there: Mapping[str, int]) -> dict[str, bytes]:
        """The joint key and who confirms it, for those that have not shown that they have it."""
        left = self.returned(stages, there)
        self._context = self._total = None
        self._parts, self._tags, self._made_of = {}, {}, b""
        body = messages.write_public_key(self._made)
        return {name: b"" if name in self._keyed else body + self._confirmations(name) for name in left}

    def _confirmations(self, name: str) -> bytes:
        at = TAG * self.roster.index(name)
        return b"".join(
            self._confirmed[holder][at : at + TAG] if holder in self._confirmed else ABSENT
            for holder in self._committee
        )

    def take(self, name: str, message: bytes, vector: Words, words: int, form: Form) -> None:
        """Add an encrypted vector."""
        self.once(name)
        context = self._context or context_of(self._made, self.number, words, form.limit)
        if context.plan.count != words or vector.dtype != "uint8" or vector.ndim != 1:
            raise ProtocolError(
                f"{name} sent no encrypted vector of {context.plan.count} words", step="masked"
            )
        wanted = MADE_OF + TAG * OPENINGS * self.holders if self._active else 0
        if len(message) != wanted:
            raise ProtocolError(
                f"{name} sent {len(message)} bytes of tags, {wanted} are expected", step="masked"
            )
        made_of, message = message[:MADE_OF], message[MADE_OF:]
        if made_of != (self._made_of or made_of):
            raise ProtocolError(
                f"{name} was sent another model, task or form than the others, or says so", step="masked"
            )
        came = messages.read_ciphertext(vector.tobytes(), context)
        parts = [messages.write_key_part(key_part(came, opening)) for opening in range(OPENINGS)]
        if parts in self._parts.values():
            raise ProtocolError(f"{name} sent the vector of another participant", step="masked")
        self._total = add(context, [came] if self._total is None else [self._total, came])
        self._context, self._form, self._made_of = context, form, made_of
        self._parts[name], self._tags[name] = parts, message
        self.taken.append(name)
        self._keyed.add(name)

    def open(self, stages: Stages) -> Words:
        """Have as many holders as are needed open the sum; others when one does not answer."""
        self.enough()
        ready = sorted(
            (name for name in self._committee if name in self.nodes), key=lambda name: name not in self.taken
        )
        for opening in range(OPENINGS):
            if len(ready) < self.threshold:
                break
            active = ready[: self.threshold]
            asked, partials = self._asked_of(stages, opening, active)
            if len(partials) == len(active):
                return self._opened(stages, asked, partials, active)
            ready = [name for name in ready if name in partials or name not in active]
            # Who has answered is asked again first: it is there.
            ready.sort(key=lambda name: name not in partials)
        raise self.failed(
            "open",
            len(ready),
            self.threshold,
            f"{self.threshold} of {self.holders} holders of the key open a sum",
        )

    def _asked_of(
        self, stages: Stages, opening: int, active: Sequence[str]
    ) -> tuple[Request, dict[str, Partial]]:
        context, total, form = self._round
        numbers = sorted(self._committee.index(name) + 1 for name in active)
        asked = request(context, key_part(total, opening), numbers)
        if self._active:
            bodies = {name: self._tagged(opening, name) for name in active}
        else:
            bodies = dict.fromkeys(active, messages.write_request(asked))
        told = {"words": context.plan.count, "limit": form.limit, "opening": opening, "active": numbers}
        self._openings -= 1
        self.stale = self.stale or self._openings < OPENINGS
        partials: dict[str, Partial] = {}
        replies = stages.exchange("open", self.run, self.number, bodies, self.nodes, json.dumps(told))
        for name, reply in replies.items():
            with stages.using(name, "open"):
                partial = messages.read_partial(told_bytes(reply, "message"), asked)
                if self._committee[partial.index - 1] != name:
                    raise ProtocolError(f"{name} answered in the name of another holder", step="open")
                partials[name] = partial
        return asked, partials

    def _tagged(self, opening: int, holder: str) -> bytes:
        """Key parts of all vectors, with their tags for a holder."""
        at = TAG * (opening * self.holders + self._committee.index(holder))
        return self._made_of + b"".join(
            struct.pack("<I", self.roster.index(name)) + self._tags[name][at : at + TAG] + parts[opening]
            for name, parts in self._parts.items()
        )

    def _opened(
        self, stages: Stages, asked: Request, partials: Mapping[str, Partial], active: Sequence[str]
    ) -> Words:
        context, total, form = self._round
        try:
            units = decrypt(context, total, asked, list(partials.values()))
        except ProtocolError as error:
            raise self.failed("open", len(partials), self.threshold, error.message) from error
        stages.account.opened_by = sorted(active)
        return as_words(units, form)

    @property
    def _round(self) -> tuple[Context, Ciphertext, Form]:
        if self._context is None or self._total is None or self._form is None:
            raise ProtocolError("no vector has come yet", step="open")
        return self._context, self._total, self._form

    @property
    def _made(self) -> PublicKey:
        if self._key is None:
            raise ProtocolError("the joint key is not made yet", step="masked")
        return self._key

    @property
    def _active(self) -> bool:
        return self.agreed.assumptions.adversary == "active"
