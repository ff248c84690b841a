"""Secure aggregation with pairwise masks: a coordinator learns the sum of vectors, and none of them.

`protocol` says who learns what, the messages and why it holds; `participant` and `coordinator` are the two
sides, `graph` chooses the neighbours and the threshold, `shamir` shares secrets, `keys` agrees on them,
`messages` puts them on the wire.
"""
