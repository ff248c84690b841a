"""Ten rows of a table, combined: the inner loop of the LPN code, a vector operation for each row.

Over a field the j-th row is multiplied by x^j. The products are added unreduced, ten bits wider than the field, and
reduced once.
"""

from __future__ import annotations

from typing import Any

from crypto.kernels.blocks import u64
from crypto.kernels.compiled import intrinsic, kernel, types

TERMS = 10


def _combined(words: int, degree: int) -> Any:
    """An intrinsic (table (k, words) uint64 C-contiguous, ten places) -> sums of `words` words.

    Args:
        words: Of a row.
        degree: Of the field, over GF(2): 1 for bits, which are only added; 64 for elements of a word; 128 for those
            of two words, whose sums are not reduced: the words above them follow.
    """
    open_above = degree == 128

    @intrinsic
    def combine(
        typing: Any,
        table: Any,
        p0: Any,
        p1: Any,
        p2: Any,
        p3: Any,
        p4: Any,
        p5: Any,
        p6: Any,
        p7: Any,
        p8: Any,
        p9: Any,
    ) -> Any:
        kind = types.UniTuple(types.uint64, words + (words // 2 if open_above else 0))
        takes = [types.Array(types.uint64, 2, "C", readonly=not table.mutable)] + [types.uint64] * TERMS

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            from llvmlite import ir

            word = ir.IntType(64)
            vector = ir.VectorType(word, words)
            index = ir.IntType(32)
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            start = builder.bitcast(array.data, word.as_pointer())
            zero = ir.Constant(vector, [0] * words)
            total, above = zero, zero
            # A carry goes from the low word of each element to its high one.
            up = ir.Constant(ir.VectorType(index, words), [w - 1 if w % 2 else words for w in range(words)])
            for j, place in enumerate(arguments[1:]):
                at = builder.gep(start, [builder.mul(place, ir.Constant(word, words))])
                row = builder.load(builder.bitcast(at, vector.as_pointer()))
                row.align = 8
                if degree > 1 and j:
                    left = ir.Constant(vector, [j] * words)
                    right = ir.Constant(vector, [64 - j] * words)
                    carry = builder.lshr(row, right)
                    row = builder.shl(row, left)
                    if open_above:
                        row = builder.xor(row, builder.shuffle_vector(carry, zero, up))
                    above = builder.xor(above, carry)
                total = builder.xor(total, row)
            if degree == 64:
                # x^64 = x^4 + x^3 + x + 1, and at most nine bits are above.
                for by in (0, 1, 3, 4):
                    total = builder.xor(total, builder.shl(above, ir.Constant(vector, [by] * words)))
            parts = [builder.extract_element(total, ir.Constant(index, w)) for w in range(words)]
            if open_above:
                parts += [builder.extract_element(above, ir.Constant(index, w)) for w in range(1, words, 2)]
            return context.make_tuple(builder, kind, parts)

        return kind(*takes), code

    return combine


combine_bits = _combined(2, degree=1)
combine_field = _combined(2, degree=128)
combine_field_pairs = _combined(4, degree=128)
combine_words = _combined(2, degree=64)
combine_words_pairs = _combined(4, degree=64)


@kernel(inline="always")
def reduce_above(low: Any, above: Any) -> Any:
    """The low word after the bits from 128 on, fewer than 57 of them, are reduced into it."""
    return low ^ above ^ (above << u64(1)) ^ (above << u64(2)) ^ (above << u64(7))
