"""Cryptographic building blocks: arrays and bytes in, arrays and bytes out.

No network, no Flower, no files, no fedcore. `psi` has set intersection, `kernels` the compiled inner loops. Masking,
secret sharing and homomorphic encryption of updates are added here by the protocols that need them.
"""
