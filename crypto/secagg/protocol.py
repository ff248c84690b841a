"""Secure aggregation by pairwise masks that cancel in the sum (SecAgg+), over many rounds of one run.

Who learns what. The coordinator learns, in each round, the sum modulo 2^32 or 2^64 of the vectors of those
that took part, who they are, and nothing else of any vector. A participant learns who takes part (as numbers;
names of its neighbours only). This holds against a coordinator that follows the protocol (`curious`) or says
anything to anybody (`active`) and up to a fraction of participants that collude with it; see `graph` for the
fractions and thresholds. Nothing is claimed of the sum itself: a participant can put any vector in, and a
coordinator can make a round fail.

Of participant v with its neighbours N(v), k of them, t the threshold; `HMAC` is HMAC-SHA-256:

  once a run
    advertise   v -> coordinator    X25519 public key, signed with v's enrolled identity
    roster      coordinator -> v    hashes of all names, each once, and of their keys; names, keys and signatures
                                    of N(v)
                Their hash is the seed of the graph and part of the run's digest; from the agreed key of v and
                w comes s_vw by HKDF, bound to the run, the parameters, all advertised keys and both
                identities.
  each round r
    shares      v -> coordinator    b_v and u_v in shares for each neighbour, encrypted to it; under u_v the seeds
                                    h_vw = HMAC(s_vw, r) of all neighbours w; hashes of b_v, u_v and all shares
    start       coordinator -> v    U, who has sent shares; the shares that v's neighbours sent to it
    masked      v -> coordinator    y = x + G(b_v) + G(h_vw) for w > v in N(v) and U, - G(h_vw) for w < v; to each
                                    of these a tag of U and of what x was made from, under a key from s_vw
    survivors   coordinator -> v    S, whose masked vectors came; the tags of U from v's neighbours in S
    confirm     v -> coordinator    to each neighbour in S a tag of U and S         (these two only if `active`)
    request     coordinator -> v    such tags of at least t neighbours
    reveal      v -> coordinator    for each neighbour in U its share of b if the neighbour is in S, else of u
                The coordinator takes away G(b_v) of v in S, and the masks h_vw of v in U but not in S.

Why reuse is sound. Bonawitz et al. and Bell et al. make keys for every round, because of a participant that
dropped they reveal the key itself. Flamingo (Ma et al.) keeps keys for a run and derives masks for each round
by a pseudo-random function of the pair's secret; its dropped masks are then opened by decryptors with
threshold ElGamal. Here they are not: v encrypts its own seeds h_vw of round r under a fresh u_v and shares
u_v, in the place of its key. What comes to light of one who dropped is its seeds of this round, which is what
the single-round protocol reveals; s_vw never leaves v and w, so other rounds stay pseudo-random, and one who
did not drop has u_v protected by the threshold, so its box of seeds is ciphertext. This costs 48 bytes a
neighbour, no key agreement in a round, and the shares of round r + 1 can ride with any message of round r.
Within a run there is no forward secrecy: take a new run, with new keys, as often as that is wanted. Numbers
of rounds only grow, and a participant does every step of a round once.

Why an active coordinator learns one sum. Let c be the most colluding neighbours of anybody. A share is
revealed by an honest u only after t neighbours of u confirmed u's own U and S, and only one kind for each
neighbour v; and only if v itself had masked under that U (its tag), so v and u both carry the mask h_uv. With
t > (k + c) / 2 nobody has both kinds revealed, and nobody honest who revealed anything has u revealed: two
sets of more than half of its honest neighbours would meet in one that confirmed two sets. So if b_v is
revealed, t - c > k / 2 honest neighbours carry a mask with v that goes away only in a sum with them: a sum is
over a set each of whose honest members has more than k / 2 neighbours in it. There are no two such sets:
where a member of one follows a member of the other on the ring, the k + 2 places that are their
neighbourhoods would hold k + 4. In a complete graph t > (k + c - 1) / 2 does: all honest ones that reveal
agree on S.

Such a set is more than a quarter of the ring: each of its members lies in a run of k / 2 + 2 of them over at
most k + 1 places, and runs that cover the set, each place at most twice, cover the ring. So `least` is checked by
all where the graph is complete; where it is not, a participant sees its neighbours only, and the quarter holds.

Who is in the roster is the coordinator's choice, so who colludes is counted among all that are enrolled
(`Assumptions.enrolled`), not among those it lets in; who that is was settled before keys were made. The graph
follows from a hash of all keys, which the coordinator sees before it closes the roster: it can try many, by whom
it leaves out and by the keys of colluding participants, at a hash and a sort each. (In Bell et al. participants
choose their neighbours after the keys are committed to, and there is nothing to try.) Where c is all that
collude, as by default up to some hundreds of participants, it tries in vain; elsewhere `active` takes c with
probability 2^-81, which leaves 2^-41 after 2^40 tries (`graph.TRIES`).

What a vector was made from is the coordinator's word too: its model, task and scale. One that tells all but one
what makes theirs nothing, or known, would have that one's vector (Pasquini et al., CCS 2022). So a digest of what v
was told goes into its tags of U, and nobody reveals anything to a sum in which a neighbour was told something else.
The digest is the caller's (`Participant.mask`); what the caller leaves out of it is not covered.

Bytes in a round, besides the vector: v sends 208 for each neighbour and gets 116, and two sets of n bits;
each message has 26 bytes of head. Of the roster v gets 32 n bytes and its neighbours' keys, once.

Assumption: gap Diffie-Hellman over X25519, HKDF and SHA-256 random oracles, HMAC a pseudo-random function,
G (AES-128-CTR, or ChaCha20 where all agree on it) a pseudo-random generator, ChaCha20-Poly1305 authenticated
encryption, identities known beforehand.

Source: Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017
(eprint 2017/281); Bell et al., "Secure single-server aggregation with (poly)logarithmic overhead", CCS 2020
(eprint 2020/704); Ma, Woods, Angel, Polychroniadou, Rabin, "Flamingo:
multi-round single-server secure aggregation with applications to private federated learning", IEEE S&P 2023
(eprint 2023/486); Pasquini, Francati, Ateniese, "Eluding secure aggregation in federated learning via model
inconsistency", CCS 2022 (arXiv 2111.07380).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from crypto.errors import ProtocolError
from crypto.secagg.graph import Assumptions, Graph, Parameters, parameters
from crypto.secagg.keys import PERSON
from crypto.streams import StreamCipher, check_cipher

RUN = 32
"""Bytes that name a run."""
_BINDING = b"fedcore secagg cohort 1"


class RoundFailed(ProtocolError):
    """Too few are left in a round for a sum; the next round can go on.

    Args:
        step: At which it failed.
        number: Of the round; 0 before the first.
        left: Participants that are left.
        needed: That are needed.
        cohort: That could have taken part.
        reason: What else is to be said.
        blamed: Names of those that sent what they should not have.
    """

    def __init__(
        self,
        *,
        step: str,
        number: int,
        left: int,
        needed: int,
        cohort: int,
        reason: str = "",
        blamed: Sequence[str] = (),
    ) -> None:
        text = f"round {number} failed: {left} of {cohort} participants are left and {needed} are needed"
        if reason:
            text += f"; {reason}"
        if blamed:
            text += f" (sent by {', '.join(blamed)})"
        super().__init__(text, step=step)
        self.number = number
        self.left = left
        self.needed = needed
        self.cohort = cohort
        self.blamed = tuple(blamed)


@dataclass(frozen=True)
class Cohort:
    """The participants of a run, as far as all sides know the same of them.

    Args:
        leaves: Hashes of the advertised keys, ascending; who has the i-th is participant i.
        assumptions: About them.
        parameters: That follow.
        binding: Digest of the run and of all this, 32 bytes.
        graph: Of the neighbours.
        cipher: Of the masks.
    """

    leaves: tuple[bytes, ...]
    assumptions: Assumptions
    parameters: Parameters
    binding: bytes
    graph: Graph = field(repr=False, compare=False)
    cipher: StreamCipher = "aes"

    @property
    def size(self) -> int:
        """Participants."""
        return len(self.leaves)


def cohort_of(
    run: bytes, leaves: Iterable[bytes], assumptions: Assumptions, cipher: StreamCipher = "aes"
) -> Cohort:
    """The cohort that a list of advertised keys makes.

    Args:
        run: 32 bytes that no other run has.
        leaves: `keys.leaf` of each advertised key.
        assumptions: About the cohort.
        cipher: Of the masks. It is in the binding: sides that have another understand nothing of each other.

    Raises:
        ValueError: A leaf stands there twice, there is no such cipher, or (`NoParameters`) the cohort is too small for the
            assumptions.
    """
    if len(run) != RUN:
        raise ValueError(f"a run is named by {RUN} bytes, not {len(run)}")
    ordered = tuple(sorted(leaves))
    # By the name's half: one that colludes could otherwise be a whole cohort, with a key for each place.
    if len({leaf[:PERSON] for leaf in ordered}) != len(ordered):
        raise ValueError("a participant stands in the roster twice")
    check_cipher(cipher)
    found = parameters(len(ordered), assumptions)
    told = struct.pack(
        "<IIII?", found.cohort, found.degree, found.threshold, found.least, assumptions.adversary == "active"
    ) + b"".join(ordered)
    if cipher != "aes":
        # What stands before it has a length that follows from the cohort; AES adds nothing, as in the first version.
        told += b"cipher " + cipher.encode()
    binding = hashlib.sha256(_BINDING + run + told).digest()
    seed = hashlib.sha256(b"fedcore secagg graph 1" + binding).digest()
    return Cohort(ordered, assumptions, found, binding, Graph(found.cohort, found.degree, seed), cipher)


def set_digest(cohort: Cohort, step: str, number: int, *sets: bytes) -> bytes:
    """What tags of a round stand for: the step, the round and one or two sets as bitmaps."""
    return hashlib.sha256(
        b"fedcore secagg "
        + step.encode()
        + b" 1"
        + cohort.binding
        + number.to_bytes(4, "little")
        + b"".join(sets)
    ).digest()
