"""Correlated GGM trees: a vector that one side knows whole and the other but for one place that nobody chose.

The half-tree construction: an inner node x has the children H(x) and x + H(x), and the two nodes below the root
are x and x + D. So the nodes of every level sum to D, the side that lacks one path needs one block a level for it,
and a level costs one call of AES for two children.

    leaves v (the whole side), w (the other), one place p:
    correlation over bits      v + w = 0 but at p, where v + w = D
    correlation over the field v + w = 0 but at p, where v + w = D e, e a field element that the other side holds

Source: Guo, Yang, Wang, Zhang, Xie, Liu, Zhao, "Half-Tree", EUROCRYPT 2023, eprint 2022/1431: figure 3 (cGGM) for
bits, figure 4 (pcGGM, whose last level is hashed) for the field. H(x) = pi(s(x)) + s(x) with s(l, h) = (h, l + h),
circular correlation robust for an ideal permutation pi (eprint 2019/074, section 7.3).
"""

from __future__ import annotations

from typing import Any

from crypto.kernels.aes import fixed
from crypto.kernels.blocks import u64
from crypto.kernels.compiled import kernel


@kernel(inline="always")
def _child(low: Any, high: Any) -> Any:
    """H of a node."""
    a, b = high, low ^ high
    c, d = fixed(a, b)
    return a ^ c, b ^ d


@kernel(inline="always")
def _leaf(low: Any, high: Any, right: Any) -> Any:
    """A leaf of the hashed level: H(x) or H(x + 1) + 1, whose sum with D tells nothing."""
    return _child(low ^ right, high)


@kernel
def whole(roots: Any, delta: Any, depth: Any, hashed: Any, leaves: Any, sums: Any) -> None:
    """Trees that are known whole.

    Args:
        roots: The left node below each root, secret and fresh, (t, 2) uint64.
        delta: D, (1, 2).
        depth: At least 2; 2^depth leaves a tree.
        hashed: Whether the last level is hashed (for correlations over the field).
        leaves: Out, (t 2^depth, 2).
        sums: Out, (t, depth + 1, 2): the sum of the left nodes of each level; in the last place, that of the right
            nodes of the last one.
    """
    size = 1 << depth
    for tree in range(roots.shape[0]):
        at = tree * size
        leaves[at, 0] = roots[tree, 0]
        leaves[at, 1] = roots[tree, 1]
        leaves[at + 1, 0] = roots[tree, 0] ^ delta[0, 0]
        leaves[at + 1, 1] = roots[tree, 1] ^ delta[0, 1]
        sums[tree, 0, 0] = roots[tree, 0]
        sums[tree, 0, 1] = roots[tree, 1]
        for level in range(1, depth):
            last = hashed and level == depth - 1
            l0 = u64(0)
            l1 = u64(0)
            r0 = u64(0)
            r1 = u64(0)
            # From the back, so that children do not overwrite nodes that are still to be read.
            for i in range((1 << level) - 1, -1, -1):
                x0, x1 = leaves[at + i, 0], leaves[at + i, 1]
                c0, c1 = _child(x0, x1)
                if last:
                    d0, d1 = _leaf(x0, x1, u64(1))
                else:
                    d0, d1 = x0 ^ c0, x1 ^ c1
                leaves[at + 2 * i, 0] = c0
                leaves[at + 2 * i, 1] = c1
                leaves[at + 2 * i + 1, 0] = d0
                leaves[at + 2 * i + 1, 1] = d1
                l0 ^= c0
                l1 ^= c1
                r0 ^= d0
                r1 ^= d1
            sums[tree, level, 0] = l0
            sums[tree, level, 1] = l1
            sums[tree, depth, 0] = r0
            sums[tree, depth, 1] = r1


@kernel
def punctured(known: Any, path: Any, depth: Any, hashed: Any, leaves: Any, places: Any) -> None:
    """Trees of which one path is not known; the leaf at its end is left zero.

    Args:
        known: (t, depth, 2): the sum of the nodes on the side that leaves the path, for each level.
        path: (t, depth) uint8: the side (0 left, 1 right) whose sum is known; the path goes the other way.
        depth, hashed: As in `whole`.
        leaves: Out, (t 2^depth, 2).
        places: Out, (t,) int64: the place in its tree that is not known.
    """
    size = 1 << depth
    for tree in range(known.shape[0]):
        at = tree * size
        side = path[tree, 0]
        place = 1 - side
        leaves[at, 0] = u64(0)
        leaves[at, 1] = u64(0)
        leaves[at + 1, 0] = u64(0)
        leaves[at + 1, 1] = u64(0)
        leaves[at + side, 0] = known[tree, 0, 0]
        leaves[at + side, 1] = known[tree, 0, 1]
        for level in range(1, depth):
            last = hashed and level == depth - 1
            side = path[tree, level]
            s0, s1 = known[tree, level, 0], known[tree, level, 1]
            for i in range((1 << level) - 1, -1, -1):
                if i == place:
                    leaves[at + 2 * i, 0] = u64(0)
                    leaves[at + 2 * i, 1] = u64(0)
                    leaves[at + 2 * i + 1, 0] = u64(0)
                    leaves[at + 2 * i + 1, 1] = u64(0)
                    continue
                x0, x1 = leaves[at + i, 0], leaves[at + i, 1]
                c0, c1 = _child(x0, x1)
                if last:
                    d0, d1 = _leaf(x0, x1, u64(1))
                else:
                    d0, d1 = x0 ^ c0, x1 ^ c1
                leaves[at + 2 * i, 0] = c0
                leaves[at + 2 * i, 1] = c1
                leaves[at + 2 * i + 1, 0] = d0
                leaves[at + 2 * i + 1, 1] = d1
                if side:
                    s0 ^= d0
                    s1 ^= d1
                else:
                    s0 ^= c0
                    s1 ^= c1
            leaves[at + 2 * place + side, 0] = s0
            leaves[at + 2 * place + side, 1] = s1
            place = 2 * place + 1 - side
        places[tree] = place


@kernel
def sum_of_trees(leaves: Any, size: Any, out: Any) -> None:
    """The sum of each tree's leaves: `leaves` (t size, 2), `out` (t, 2)."""
    for tree in range(out.shape[0]):
        a = u64(0)
        b = u64(0)
        for i in range(tree * size, (tree + 1) * size):
            a ^= leaves[i, 0]
            b ^= leaves[i, 1]
        out[tree, 0] = a
        out[tree, 1] = b
