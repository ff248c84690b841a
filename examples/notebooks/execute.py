"""Execute the notebooks of this folder in place: `python examples/notebooks/execute.py` (or `make notebook`).

Outputs are kept, times are not, so that a notebook changes only when its results do.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent


def execute(notebook: NotebookNode, folder: Path, timeout: int = 90) -> None:
    """Run all cells, in this Python, and keep their outputs in the notebook.

    Args:
        notebook: Changed in place.
        folder: The working directory; the notebooks do not depend on it.
        timeout: Seconds for one cell.

    Raises:
        CellExecutionError: A cell raised.
    """
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    # The version of Python is the reader's, not ours.
    notebook.metadata["language_info"] = {"name": "python"}


def main() -> None:
    """Execute and write each notebook."""
    for file in sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        execute(notebook, HERE)
        file.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        print(file.name)


if __name__ == "__main__":
    main()
