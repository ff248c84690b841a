"""Aggregation strategies: the server half over numpy, the client half over torch, one file per algorithm.

No file here imports fedcore or crypto: a strategy decides what to do with an aggregate and never knows how
that aggregate travelled or was protected. A job names a strategy (`strategies.registry`); a developer's own
is one file on top of `strategies.base`.
"""
