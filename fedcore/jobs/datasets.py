"""Data sets as a participant's catalogue lists them: one model per connector."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, field_validator, model_validator

from fedcore.jobs.common import Strict


class Part(Strict):
    """The share of a data set that one virtual participant of a simulation sees.

    Args:
        index: Which participant, from 0.
        of: How many participants share the rows.
        method: `iid` deals rows at random; `dirichlet` draws each class's shares (Hsu et al. 2019,
            arXiv 1909.06335); `by` gives each distinct value of a column to one participant.
        alpha: Dirichlet concentration; smaller is less alike.
        label: The class column that `dirichlet` uses.
        column: The column that `by` uses.
        seed: Of the deal; the same for all participants.
    """

    index: int = Field(ge=0)
    of: int = Field(gt=0)
    method: Literal["iid", "dirichlet", "by"] = "iid"
    alpha: float = Field(default=0.5, gt=0)
    label: str | None = None
    column: str | None = None
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> Part:
        if self.index >= self.of:
            raise ValueError(f"index {self.index} must be below of: {self.of}")
        if self.method == "dirichlet" and self.label is None:
            raise ValueError("method dirichlet needs label: the class column")
        if self.method == "by" and self.column is None:
            raise ValueError("method by needs column: the column whose values name the participant")
        return self


Pixels = Annotated[int, Field(gt=0, le=65535)]

T = TypeVar("T", "SqliteData", "PostgresData")


class _DataSet(Strict):
    row_id: str | None = None
    """Column that names the person or object of a row. Rows that share it stay on one side of a split; no job may
    ask for it as target or feature."""
    part: Part | None = None
    """Set for virtual participants of a simulation only."""
    levels: dict[str, tuple[int | float | str | bool, ...]] = Field(default_factory=dict)
    """Values that columns of categories may have, in order, also those that no row has: these are told to whoever may
    ask, so that tables have the same cells at all participants."""
    units: dict[str, str] = Field(default_factory=dict)
    """Units of columns, such as `years`; a question over columns of one name and two units is refused."""

    def __hash__(self) -> int:
        """By the fields that can be hashed; equal data sets have equal ones."""
        told = (value for name, value in self if name not in ("levels", "units"))
        return hash((type(self), *told))

    @field_validator("levels")
    @classmethod
    def _each_once(
        cls, levels: dict[str, tuple[int | float | str | bool, ...]]
    ) -> dict[str, tuple[int | float | str | bool, ...]]:
        for column, values in levels.items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"levels: {column} needs one or more values, each once")
        return levels


class CsvData(_DataSet):
    """A CSV file (RFC 4180), its header in the first line; `.gz` and the like are unpacked.

    Args:
        delimiter: One character.
        encoding: Of the text, by a name Python knows.
        nulls: What stands for a missing value, in numbers and in text.
    """

    connector: Literal["csv"]
    path: Path
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = "utf-8"
    nulls: tuple[str, ...] = ("", "NA", "N/A", "null", "NULL")

    @field_validator("encoding")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            codecs.lookup(name)
        except LookupError:
            raise ValueError(
                'encoding is a name Python knows, such as "utf-8", "latin-1", "cp1252"'
            ) from None
        return name


class ParquetData(_DataSet):
    """A Parquet file, or a folder of `*.parquet` files with the same columns."""

    connector: Literal["parquet"]
    path: Path


class SqliteData(_DataSet):
    """A table or a query of an SQLite file, opened read-only.

    Args:
        table: Its name, or `schema.name`.
        query: A SELECT instead.
    """

    connector: Literal["sqlite"]
    path: Path
    table: str | None = None
    query: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> SqliteData:
        return _table_or_query(self)


class PostgresData(_DataSet):
    """A table or a query of a PostgreSQL database, read in a read-only session.

    The password does not stand here: libpq takes it from PGPASSWORD, PGPASSFILE or ~/.pgpass.

    Args:
        url: `postgresql://user@host:port/database`; libpq's parameters (`?sslmode=verify-full`) may follow.
        table: Its name, or `schema.name`.
        query: A SELECT instead.
    """

    connector: Literal["postgresql"]
    url: str
    table: str | None = None
    query: str | None = None

    @field_validator("url")
    @classmethod
    def _without_password(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = None
        if parts is None or parts.scheme not in ("postgresql", "postgres"):
            raise ValueError("a url reads postgresql://user@host:port/database")
        names = parse_qs(parts.query, keep_blank_values=True)
        if parts.password is not None or "password" in names or "sslpassword" in names:
            raise ValueError(
                "a password does not stand in a file; give it in PGPASSFILE, ~/.pgpass or PGPASSWORD"
            )
        return url

    @model_validator(mode="after")
    def _one_source(self) -> PostgresData:
        return _table_or_query(self)


class NpzData(_DataSet):
    """A NumPy `.npz` file: each array is a column, its first axis the rows.

    An array with further axes is a column of tensors: uint8 stays uint8, other numbers become float32.
    """

    connector: Literal["npz"]
    path: Path


class _Masked(_DataSet):
    masks: Path | None = None
    mask_values: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        values = self.mask_values
        if values is not None and (not 2 <= len(values) <= 255 or len(set(values)) < len(values)):
            raise ValueError("mask_values: name two to 255 values, each once; the first is the background")
        if values is not None and self.masks is None:
            raise ValueError("mask_values: there are no masks; name their folder as masks, or leave this out")
        return self


class ImageFolderData(_Masked):
    """A folder with one sub-folder per class; PNG, JPEG, BMP or TIFF inside, at any depth.

    Columns: `image` (uint8, height x width, or height x width x 3), `label` (the sub-folder's name) and
    `file` (the path below the folder); with `masks` also `mask` (uint8, height x width), and the sub-folders
    may be left out, and `label` with them.

    Args:
        masks: A folder with a grey or palette image of the same path and size for each image, as PNG, BMP or TIFF;
            outside of `path`.
        mask_values: Of a mask's pixels: which value is class 0 (the background), class 1 and so on; they are the
            classes' numbers when absent.
        size: Height and width, in pixels, to which images are resized.
        channels: 1 (grey) or 3 (RGB).
    """

    connector: Literal["images"]
    path: Path
    size: tuple[Pixels, Pixels] = (64, 64)
    channels: Literal[1, 3] = 1


class DicomData(_Masked):
    """DICOM series below a folder, labelled by a CSV file with the columns `series` and `label`.

    `series` is the SeriesInstanceUID; series that the CSV file does not name are left out. Each series gives
    `slices` evenly spaced slices, windowed. Columns: `image` (uint8, height x width), `label`, `series` and
    `patient` (PatientID); with `masks` also `mask`. `row_id: patient` keeps a person's slices on one side of a split.

    Args:
        labels: The CSV file.
        masks: A folder with a mask for each slice, `<SeriesInstanceUID>/<SOPInstanceUID>.png`, grey or palette and of the
            slice's size; a slice without one is refused.
        mask_values: Of a mask's pixels: which value is class 0 (the background), class 1 and so on; they are the
            classes' numbers when absent.
        size: Height and width, in pixels, to which slices are resized.
        slices: How many slices of each series become rows.
        window: Centre and width in the modality's units (Hounsfield units for CT); the range of the slice
            when absent.
    """

    connector: Literal["dicom"]
    path: Path
    labels: Path
    size: tuple[Pixels, Pixels] = (64, 64)
    slices: int = Field(default=1, gt=0)
    window: tuple[float, Annotated[float, Field(gt=0)]] | None = None


class NiftiData(_Masked):
    """NIfTI volumes (`.nii`, `.nii.gz`) below a folder, labelled by a CSV file, or with masks, or both.

    Each volume gives `slices` evenly spaced slices, windowed. It is turned by its affine first, so that slices lie as a
    radiologist looks at them: an axial one from the feet, the patient's right at the left. Columns: `image` (uint8,
    height x width), `label` (with `labels`), `mask` (with `masks`), `file` (the path below the folder); `row_id: file`
    keeps a volume's slices on one side of a split.

    Args:
        labels: A CSV file with the columns `file` and `label`; volumes that it does not name are left out.
        masks: A folder with a volume of the same path and shape for each, of whole numbers.
        mask_values: Which value of a mask is class 0 (the background), class 1 and so on; they are the classes' numbers
            when absent.
        axis: `axial` slices go from the feet up, `coronal` ones from the back to the front, `sagittal` ones from left
            to right.
        size: Height and width, in pixels, to which slices are resized.
        slices: How many slices of each volume become rows.
        window: Centre and width in the volume's units (Hounsfield units for CT); the range of the slice when absent.
    """

    connector: Literal["nifti"]
    path: Path
    labels: Path | None = None
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    size: tuple[Pixels, Pixels] = (64, 64)
    slices: int = Field(default=1, gt=0)
    window: tuple[float, Annotated[float, Field(gt=0)]] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.labels is None and self.masks is None:
            raise ValueError("give labels, masks or both; there is nothing to learn from volumes alone")
        return self


class MedMnistData(_DataSet):
    """A MedMNIST `.npz` file (`train_images`, `train_labels`, ...), as downloaded by the user.

    Columns: `image` and `label`; `label_0`, `label_1`, ... where an image has several labels (ChestMNIST).

    Args:
        subset: Which of the file's three parts.
    """

    connector: Literal["medmnist"]
    path: Path
    subset: Literal["train", "val", "test"] = "train"


def _table_or_query(data: T) -> T:
    if (data.table is None) == (data.query is None):
        raise ValueError("give exactly one of table and query")
    return data


DataSet = Annotated[
    CsvData
    | ParquetData
    | SqliteData
    | PostgresData
    | NpzData
    | ImageFolderData
    | DicomData
    | NiftiData
    | MedMnistData,
    Field(discriminator="connector"),
]
