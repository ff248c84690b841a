"""Flower's q-FedAvg and Bulyan collect garbage once for every reply; this makes that cheap.

`ArrayRecord.to_numpy_ndarrays(keep_input=False)` ends with `gc.collect()`, which looks at every object of the
process: about half a second with torch loaded, for each reply of each round.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def cheap_collections() -> Iterator[None]:
    """Hide from the collector what exists already; what is made inside is collected as ever."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
