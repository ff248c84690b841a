"""Sums and products with a vector that its holder encrypts, by ring learning with errors.

In the order of the protocols: `parameters` (two rings, one table), `ring`, `noise` (every bound), `packing`
(messages), `keys`, `encryption` (vectors, answers, opening), `layout` and `sums` (of rows by group and cell),
`products` (with a matrix).
"""
