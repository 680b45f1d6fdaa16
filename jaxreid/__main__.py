"""Entry point of the command `jaxreid` and of `python -m jaxreid`."""

import sys

from jaxreid.cli import main
from jaxreid.pages import use_huge_pages


def start() -> None:
    """Run the command line of this process."""
    use_huge_pages()
    sys.exit(main())


if __name__ == "__main__":
    start()
