"""Sums of vectors under CKKS: participants share the key, the coordinator adds what it cannot read.

`parameters` chooses ring and scale, `keys` has the secret key and what the coordinator gets in its place,
`vectors` what participants and coordinator do, `seal` is the way to SEAL. Needs TenSEAL (extra `ckks`).
"""
