"""Arrays that are kept in memory up to a limit and beyond it in a file without a name.

What is kept are hashed keys of a set that is larger than the memory a job may take. The file is unlinked when it is
made: no other process opens it by a name, and nothing of it is left when the process ends, however it ends.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt


class Kept:
    """An array on a shelf.

    Attributes:
        length: Along its first axis.
    """

    def __init__(self, array: npt.NDArray[Any], file: IO[bytes] | None = None, offset: int = 0) -> None:
        self.length = len(array)
        self._file, self._offset = file, offset
        self._array = array if file is None else None
        self._dtype, self._shape = array.dtype, array.shape[1:]
        self._row = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))

    def __repr__(self) -> str:
        return f"Kept({self.length} rows)"

    def part(self, first: int, end: int) -> npt.NDArray[Any]:
        """Rows `first` to `end` - 1; not to be written to.

        Raises:
            OSError: The file cannot be read.
        """
        if self._array is not None:
            return self._array[first:end]
        out = np.empty((end - first, *self._shape), dtype=self._dtype)
        _read(self._file, out, self._offset + first * self._row)
        return out

    def whole(self) -> npt.NDArray[Any]:
        """All rows."""
        return self.part(0, self.length)


def _read(file: IO[bytes] | None, out: npt.NDArray[Any], offset: int) -> None:
    view = out.reshape(-1).view(np.uint8).data
    done = 0
    while file is not None and done < len(view):
        got = os.preadv(file.fileno(), [view[done:]], offset + done)
        if not got:
            raise OSError(f"a temporary file ends before its byte {offset + done}")
        done += got


class Shelf:
    """Keeps arrays.

    Args:
        memory: Bytes that may stay in memory.
        folder: Where the file is made; the system's folder for temporary files when None.
    """

    def __init__(self, memory: int, folder: Path | None = None) -> None:
        self._left, self._folder = memory, folder
        self._file: IO[bytes] | None = None
        self._end = 0

    def __repr__(self) -> str:
        return f"Shelf({self._end} bytes in a file)"

    @property
    def spilled(self) -> int:
        """Bytes in the file."""
        return self._end

    def put(self, array: npt.NDArray[Any]) -> Kept:
        """Keep a contiguous array, which is not changed any more.

        Raises:
            OSError: There is no room for the file.
        """
        if array.nbytes <= self._left:
            self._left -= array.nbytes
            return Kept(array)
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0, dir=self._folder, prefix="fedcore-")  # noqa: SIM115 - open as long as the shelf
        view = array.reshape(-1).view(np.uint8).data
        kept = Kept(array, self._file, self._end)
        done = 0
        while done < len(view):
            done += os.pwrite(self._file.fileno(), view[done:], self._end + done)
        self._end += len(view)
        return kept

    def close(self) -> None:
        """Give the file's room back; what was kept there can no longer be read."""
        if self._file is not None:
            self._file.close()
