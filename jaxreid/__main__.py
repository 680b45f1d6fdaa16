"""Entry point of `python -m jaxreid`."""

import sys

from jaxreid.cli import main

if __name__ == "__main__":
    sys.exit(main())
