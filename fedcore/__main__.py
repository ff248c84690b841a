"""`python -m fedcore` is `fedcore`."""

from __future__ import annotations

from fedcore.cli.start import main

if __name__ == "__main__":
    main()
