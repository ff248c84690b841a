"""Sums of integer vectors under a key that nobody holds, by ring learning with errors.

In the order of the protocol: `parameters` and `noise` (every bound), `layout` (integers in coefficients),
`ring`, `keys` (shares, joint key, t of n), `encryption` (vectors and their sum), `decryption` (opening a
sum), `messages`.
"""
