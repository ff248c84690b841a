"""Files of NumPy arrays: `.npz`, and the `.npz` files of MedMNIST.

The arrays' headers are read first, so that the schema and the size are known before anything is loaded.
Arrays of Python objects are pickles and are never loaded.

Source: MedMNIST v2, Yang et al. 2023 (doi 10.1038/s41597-022-01721-8) for the names and shapes of its arrays.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fedcore.errors import DataError, did_you_mean
from fedcore.jobs.datasets import MedMnistData, NpzData
from fedcore.participant.data.checks import chosen, existing, unreadable, within

NDArray = npt.NDArray[Any]


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def tensor_type(dtype: Any, shape: Sequence[int]) -> pa.DataType:
    """The Arrow type of a tensor column: uint8 for uint8, float32 for other numbers.

    Args:
        dtype: A NumPy dtype.
        shape: Of one example.
    """
    value = pa.uint8() if np.dtype(dtype) == np.uint8 else pa.float32()
    return pa.fixed_shape_tensor(value, list(shape))


def tensor_column(array: NDArray) -> pa.Array:
    """An array `[n, ...]` of numbers as a column of n tensors; not copied when it is uint8 or float32."""
    kind = tensor_type(array.dtype, array.shape[1:])
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which tasks refuse
        values = np.ascontiguousarray(array, dtype=np.uint8 if array.dtype == np.uint8 else np.float32)
    flat = values.reshape(-1)
    storage = pa.FixedSizeListArray.from_arrays(pa.array(flat), math.prod(array.shape[1:]))
    return pa.ExtensionArray.from_storage(kind, storage)


# ---- .npz


def npz_schema(data: NpzData) -> pa.Schema:
    """Names and types of the arrays, from their headers."""
    headers = _rectangular(data.path, _headers(data.path))
    chosen(data, None, list(headers))
    return pa.schema([pa.field(name, _type(name, header)) for name, header in headers.items()])


def npz_table(data: NpzData, columns: Sequence[str] | None, memory: int | None) -> pa.Table:
    """The arrays of an `.npz` file as columns.

    Raises:
        DataError: No file, not `.npz`, arrays of different lengths or of a type that has no column, no such
            column, too large.
    """
    headers = _rectangular(data.path, _headers(data.path))
    wanted = chosen(data, columns, list(headers))
    within(sum(_bytes(name, headers[name]) for name in wanted), memory)
    arrays = _load(data.path, wanted)
    return pa.table({name: _column(name, arrays[name]) for name in wanted})


def _rectangular(path: Path, headers: dict[str, _Header]) -> dict[str, _Header]:
    if not headers:
        raise DataError(f"{path} holds no array; an .npz file has one array for each column")
    for name, header in headers.items():
        if not header.shape:
            raise DataError(f"array {name!r} of {path} is one number, not a column; leave it out of the file")
    lengths = {name: header.shape[0] for name, header in headers.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise DataError(
            f"the arrays of {path} have different lengths ({listed}); each is a column, one row each"
        )
    return headers


# ---- MedMNIST


def medmnist_schema(data: MedMnistData) -> pa.Schema:
    """`image` and `label` (or `label_0`, `label_1`, ...), from the arrays' headers."""
    images, labels = _medmnist(data)
    names = _label_names(labels)
    chosen(data, None, ["image", *names])
    return pa.schema(
        [pa.field("image", _type("image", images)), *(pa.field(name, pa.int64()) for name in names)]
    )


def medmnist_table(data: MedMnistData, columns: Sequence[str] | None, memory: int | None) -> pa.Table:
    """The images and labels of one subset of a MedMNIST file.

    Raises:
        DataError: No file, not a MedMNIST file, no such column, too large.
    """
    images, labels = _medmnist(data)
    names = _label_names(labels)
    wanted = chosen(data, columns, ["image", *names])
    needed = _bytes("image", images) * ("image" in wanted) + 8 * labels.shape[0] * len(wanted)
    within(needed, memory)
    found: dict[str, pa.Array] = {}
    if "image" in wanted:
        array = f"{data.subset}_images"
        found["image"] = _column(array, _load(data.path, [array])[array])
    if set(wanted) & set(names):
        array = f"{data.subset}_labels"
        values = _load(data.path, [array])[array].reshape(labels.shape[0], len(names))
        found |= {name: pa.array(values[:, i].astype(np.int64)) for i, name in enumerate(names)}
    return pa.table({name: found[name] for name in wanted})


def _medmnist(data: MedMnistData) -> tuple[_Header, _Header]:
    headers = _headers(data.path)
    for name in (f"{data.subset}_images", f"{data.subset}_labels"):
        if name not in headers:
            raise DataError(
                f"{data.path} has no array {name!r}, which a MedMNIST file has; {did_you_mean(name, headers)}"
            )
    images, labels = headers[f"{data.subset}_images"], headers[f"{data.subset}_labels"]
    if len(images.shape) < 3 or len(labels.shape) not in (1, 2) or images.shape[0] != labels.shape[0]:
        raise DataError(
            f"images of shape {images.shape} and labels of shape {labels.shape} in {data.path}; a MedMNIST "
            "file has [n, height, width, ...] and [n, labels]"
        )
    if labels.dtype.kind not in "iub":
        raise DataError(f"labels of type {labels.dtype} in {data.path}; a MedMNIST file has whole numbers")
    return images, labels


def _label_names(labels: _Header) -> list[str]:
    count = labels.shape[1] if len(labels.shape) == 2 else 1
    return ["label"] if count == 1 else [f"label_{i}" for i in range(count)]


# ---- arrays


def _headers(path: Path) -> dict[str, _Header]:
    existing(path, folder=False)
    found: dict[str, _Header] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                found[member.removesuffix(".npy")] = _Header(shape, dtype)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise unreadable(path, error, "an .npz file of arrays") from error
    return found


def _load(path: Path, names: list[str]) -> dict[str, NDArray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as error:
        raise unreadable(path, error, "an .npz file of arrays") from error


def _type(name: str, header: _Header) -> pa.DataType:
    kind = header.dtype.kind
    if kind == "O":
        raise DataError(
            f"array {name!r} holds Python objects, which are never loaded (they are pickles); save numbers "
            "or text"
        )
    if len(header.shape) > 1 and kind in "biuf":
        if 0 in header.shape[1:]:
            raise DataError(f"array {name!r} of shape {header.shape} has an axis of length 0")
        return tensor_type(header.dtype, header.shape[1:])
    if len(header.shape) == 1:
        if kind in "SU":
            return pa.string()
        if kind in "biufM":
            try:
                return pa.from_numpy_dtype(header.dtype.newbyteorder("="))
            except pa.ArrowNotImplementedError:
                pass
    raise DataError(
        f"array {name!r} of type {header.dtype} and shape {header.shape} cannot be a column; allowed: "
        "numbers of any shape [rows, ...], and text, booleans or dates of shape [rows]"
    )


def _bytes(name: str, header: _Header) -> int:
    """What the array takes while it is loaded and as a column."""
    kind = _type(name, header)
    width = (
        4 if isinstance(kind, pa.FixedShapeTensorType) and header.dtype != np.uint8 else header.dtype.itemsize
    )
    return math.prod(header.shape) * max(width, header.dtype.itemsize)


def _column(name: str, array: NDArray) -> pa.Array:
    kind = _type(name, _Header(array.shape, array.dtype))
    if isinstance(kind, pa.FixedShapeTensorType):
        return tensor_column(array)
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"array {name!r} holds bytes that are not utf-8 text; save text (dtype U)"
            ) from error
    return pa.array(array.astype(array.dtype.newbyteorder("="), copy=False), type=kind)
