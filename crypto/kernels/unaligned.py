"""Words and runs of bytes at any place of a byte array, inlined into the kernels that use them."""

from __future__ import annotations

from typing import Any

from crypto.kernels.blocks import u64
from crypto.kernels.compiled import intrinsic, kernel, types


def pointer(context: Any, builder: Any, kind: Any, array: Any, element: Any) -> Any:
    """Where an array of numba begins, as a pointer to elements of another kind."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(data, element.as_pointer())


@intrinsic
def load64(typing: Any, array: Any, at: Any) -> Any:
    """Eight bytes of an array of bytes from any place, as a little-endian word; nothing checks the place."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        byte = pointer(context, builder, signature.args[0], arguments[0], ir.IntType(8))
        place = builder.bitcast(builder.gep(byte, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(array, types.int64), code


@intrinsic
def store64(typing: Any, array: Any, at: Any, word: Any) -> Any:
    """The reverse of `load64`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        byte = pointer(context, builder, signature.args[0], arguments[0], ir.IntType(8))
        place = builder.bitcast(builder.gep(byte, [arguments[1]]), ir.IntType(64).as_pointer())
        builder.store(arguments[2], place, align=1)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64), code


@kernel(inline="always")
def copy(stage: Any, at: Any, data: Any, first: Any, count: Any) -> None:
    """`count` bytes of `data` to `stage`, and up to seven zeros behind them."""
    done = 0
    while done + 8 <= count:
        store64(stage, at + done, load64(data, first + done))
        done += 8
    left = count - done
    if left:
        # The last bytes come in one load that ends with them, so that nothing behind the data is touched.
        end = first + count
        if end >= 8:
            store64(stage, at + done, load64(data, end - 8) >> u64(8 * (8 - left)))
        else:
            for i in range(left):
                stage[at + done + i] = data[first + done + i]
