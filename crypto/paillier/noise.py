"""Encryption with precomputed randomness: a table of powers in place of a power of full length.

    x        secret unit modulo n, drawn by whoever encrypts, kept
    h        -x^2 modulo n, and H = h^n modulo n^2
    Enc(m)   (1 + m n) H^r modulo n^2, r random of half the bits of n

H^r is read off a table of H^(d 2^(6 i)), d below 64: one product for each six bits of r and no squaring. At
3072 bits: 256 products in place of about 3,700, a table of 12 MB made once, in the time of 64 encryptions.

Assumption, beyond decisional composite residuosity: H^r with r of half the bits of n cannot be told from H^r
with r of full length. Damgård, Jurik and Nielsen take that length; Goldreich and Rosen (Journal of Cryptology
16, 2003) show for powers modulo n that exponents of half the length are as good as long ones if factoring is
hard. The shorter exponents in use elsewhere (512 bits at 3072) would make this three times faster and rest on
less; they are not taken. Each encrypting party draws its own h and keeps it, so less is published than in the
paper.

The table is read at secret places: a program on the same processor that watches the cache may learn about r.
Whoever shares a processor with strangers takes `PublicKey.encrypt`.

Source: Damgård, Jurik, Nielsen, "A generalization of Paillier's public-key system with applications to
electronic voting", International Journal of Information Security 9, 2010; Brickell, Gordon, McCurley, Wilson,
EUROCRYPT 1992, for the table.
"""

from __future__ import annotations

import secrets
from typing import Any

from crypto.paillier.keys import PublicKey, integers

WINDOW = 6


class Encryptor:
    """Encrypts many numbers under one key.

    Args:
        public: The key; its owner has made it with `new_owner`.
    """

    def __init__(self, public: PublicKey) -> None:
        gmpy2 = integers()
        n = gmpy2.mpz(public.n)
        self.public = public
        self._n, self._square = n, n * n
        secret = 1 + secrets.randbelow(public.n - 1)
        base = gmpy2.powmod(-secret * secret % n, n, self._square)
        self._rows: list[list[Any]] = []
        for _ in range(-(-(public.bits // 2) // WINDOW)):
            row = [gmpy2.mpz(1)]
            for _ in range((1 << WINDOW) - 1):
                row.append(row[-1] * base % self._square)
            self._rows.append(row)
            base = row[-1] * base % self._square

    def __repr__(self) -> str:
        return f"Encryptor({self.public.bits} bits, table=<hidden>)"

    def noise(self) -> int:
        """A fresh encryption of zero, as gmpy2's integer."""
        exponent = secrets.randbits(self.public.bits // 2)
        made = 1
        for row in self._rows:
            made = made * row[exponent & ((1 << WINDOW) - 1)] % self._square
            exponent >>= WINDOW
        return made

    def encrypt(self, number: int) -> int:
        """A fresh ciphertext of a number below n."""
        return int((1 + number % self._n * self._n) * self.noise() % self._square)
