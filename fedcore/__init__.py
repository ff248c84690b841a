"""fedcore: privacy-preserving federated analytics. Data stays home, results travel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fedcore.asking import ask
    from fedcore.engines.run import Run, run
    from fedcore.learning.task import Batch, Task

__all__ = ["Batch", "Run", "Task", "__version__", "ask", "run"]

_LAZY = {
    "run": "fedcore.engines.run",
    "Run": "fedcore.engines.run",
    "ask": "fedcore.asking",
    "Task": "fedcore.learning.task",
    "Batch": "fedcore.learning.task",
}


def __getattr__(name: str) -> Any:
    # Importing torch costs seconds; a person who only asks for the version should not pay them.
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'fedcore' has no attribute {name!r}")
