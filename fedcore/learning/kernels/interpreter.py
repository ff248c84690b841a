"""Triton's interpreter with what kernels here ask of it; nothing of this concerns kernels that are compiled.

    bounds of loops     taken as `int(array)` from arrays of one axis, which NumPy refuses from 2.4 on
    dot of bfloat16     computed on the bits as if they were whole numbers
    sums, maxima        of Triton's own library, to be compiled where Triton was imported before `TRITON_INTERPRET` was set, as
                        `torch.compile` does

All were seen in Triton 3.6.
"""

from __future__ import annotations

import importlib
from typing import Any

_READY = "_fedcore_is_ready"


def prepare() -> None:
    """Cure them; again does nothing. From then on this process cannot compile a kernel that uses Triton's library."""
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    if hasattr(interpreter, _READY):
        return
    setattr(interpreter, _READY, True)
    patch, dot = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot
    language: Any = importlib.import_module("triton.language")
    _interpret_library(interpreter, language)

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def exact_dot(self: Any, one: Any, two: Any, *rest: Any) -> Any:
        one, two = (
            self.cast_impl(each, language.float32) if each.dtype.scalar == language.bfloat16 else each
            for each in (one, two)
        )
        return dot(self, one, two, *rest)

    interpreter._patch_lang_tensor = patched
    interpreter.InterpreterBuilder.create_dot = exact_dot


def _interpret_library(interpreter: Any, language: Any) -> None:
    compiled = importlib.import_module("triton.runtime.jit").JITFunction
    for name, function in list(vars(language.standard).items()):
        if isinstance(function, compiled):
            interpreted = interpreter.InterpretedFunction(function.fn)
            for place in (language.standard, language, language.tensor):
                if getattr(place, name, None) is function:
                    setattr(place, name, interpreted)
