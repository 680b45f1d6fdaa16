"""Prepare a data set in advance of a run and print its sizes.

python tools/build_dataset.py market1501 --dir /data/Market-1501-v15.09.15
python tools/build_dataset.py synthetic_people/plaza

Equivalent to `jaxreid data build`.
"""

import sys

from jaxreid.cli import main

if __name__ == "__main__":
    sys.exit(main(["data", "build", *sys.argv[1:]]))
