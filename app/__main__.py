"""``python -m app`` is the command line."""

from __future__ import annotations

import sys

from app.cli.main import run


def main() -> None:
    """The entry point ``airlab``."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
