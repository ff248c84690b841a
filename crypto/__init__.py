"""Cryptographic building blocks: arrays and bytes in, arrays and bytes out.

No network, no Flower, no fedcore. `psi` has set intersection, `secagg` sums under masks, `ckks`, `paillier` and `rlwe`
encryption that adds, `kernels` the compiled inner loops. On disk are only kernels' machine code and a library, in the
user's cache, and keys that have no room in memory, in a file without a name.
"""
