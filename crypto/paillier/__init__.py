"""Paillier's encryption: sums and weighted sums of statistics and short vectors, many values in a ciphertext.

`keys` has keys and single ciphertexts, `noise` encryption with precomputed randomness, `packing` which
numbers go where in a plaintext, `vectors` what participants and coordinator do. Needs gmpy2 (extra
`paillier`). Ciphertexts are those of the package phe, which is the reference in the tests.
"""
