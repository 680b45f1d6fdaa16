"""Entry point of the command `jaxreid` and of `python -m jaxreid`."""

import sys

from jaxreid.huge_pages import use_huge_pages


def start() -> None:
    """Run the command line of this process."""
    use_huge_pages()
    # Only a bare interpreter starts twice.
    from jaxreid.cli import main

    sys.exit(main())


if __name__ == "__main__":
    start()
