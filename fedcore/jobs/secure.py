"""How sums over participants are protected, as jobs write it."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from fedcore.jobs.common import Strict

SumProtocol = Literal["secagg+", "threshold", "ckks", "paillier"]
"""What a sum is protected by."""

MaskCipher = Literal["aes", "chacha20"]
"""What pairwise masks and the randomness of rounding are drawn from."""


class SecureAggregation(Strict):
    """With a protocol the coordinator learns the weighted mean of updates and metrics, and no single one.

    `secure_aggregation: secagg+` takes the defaults; `secure_aggregation: {protocol: secagg+, clip: 4}` changes them.
    What a site requires stands in its own policy; a job that assumes less is refused there.

    Args:
        protocol: `secagg+` (pairwise masks; Bell et al. 2020), `threshold` (encryption under a key that nobody holds;
            Mouchet et al. 2021), `ckks` or `paillier` (encryption under a key that the participants share), or `none`.
        clip: Largest change of a weight in one round; what is larger is cut to it, and counted in the result.
        bits: Of a protected value, 32 or 64; `ckks` has 32 only. A mean's error is below clip * participants / 2^31
            with 32 and equal numbers of examples.
        corrupt: Largest share of the participants that works together with the coordinator.
        dropout: Largest share that drops out of a round.
        adversary: `active`: the coordinator may say anything to anybody; `curious`: it follows the protocol, which
            saves `secagg+` one exchange, and is all that `ckks` and `paillier` hold against.
        least_cohort: Fewest participants in a sum. With 2, each can compute the other's update.
        key_bits: Of the key of `paillier`.
        cipher: Of the masks of `secagg+`: `aes` (AES-128) is fastest on processors with AES instructions; `chacha20` gains
            where sites or the coordinator have GPUs, which then round and mask, and on processors without them.
        examples: `protected`: numbers of rows, and sums of `standardize: federated`, leave a site inside a protected sum
            only; `clear`: the coordinator is told each site's.
    """

    protocol: Literal["none", "secagg+", "threshold", "ckks", "paillier"] = "none"
    clip: float = Field(default=8.0, gt=0)
    bits: Literal[32, 64] = 32
    corrupt: float = Field(default=0.05, ge=0, lt=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    adversary: Literal["active", "curious"] = "active"
    least_cohort: int = Field(default=3, ge=2)
    examples: Literal["protected", "clear"] = "protected"
    key_bits: int = Field(default=3072, ge=2048, le=16384, multiple_of=16)
    cipher: MaskCipher = "aes"

    @model_validator(mode="before")
    @classmethod
    def _word(cls, written: Any) -> Any:
        return {"protocol": written} if isinstance(written, str) else written

    @model_serializer(mode="wrap")
    def _as_word(self, handler: SerializerFunctionWrapHandler) -> Any:
        defaults = self.model_copy(update={"protocol": "none"}) == SecureAggregation()
        return self.protocol if defaults else handler(self)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.cipher != "aes" and self.protocol != "secagg+":
            raise ValueError(
                f"cipher: {self.cipher} is for the masks of secagg+; under {self.protocol} there are none. Leave it out, or "
                f"write {{protocol: secagg+, cipher: {self.cipher}}}"
            )
        if self.protocol not in ("ckks", "paillier"):
            return self
        if self.adversary == "active":
            raise ValueError(
                f"under {self.protocol} a coordinator that lies can have the update of a single site decrypted. If it is "
                f"trusted to follow the protocol, say so: {{protocol: {self.protocol}, adversary: curious}}. "
                "If not, use secagg+ or threshold, which hold against a coordinator that says anything"
            )
        if self.protocol == "ckks" and self.bits != 32:
            raise ValueError(f"bits: ckks sums values of 32 bits, not of {self.bits}")
        return self
