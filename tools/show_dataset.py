"""Draw a contact sheet of a data set: one row per person, ordered by camera and time.

python tools/show_dataset.py synthetic_people/plaza --out=plaza.png
python tools/show_dataset.py market1501 --dir=/data/market1501 --split=gallery --people=12

Equivalent to `jaxreid data sheet`.
"""

import sys

from jaxreid.cli import main

if __name__ == "__main__":
    sys.exit(main(["data", "sheet", *sys.argv[1:]]))
