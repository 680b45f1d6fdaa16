"""Convert a PyTorch checkpoint to a weights file for training and evaluation.

python tools/convert_torch.py resnet50_ibn_b.pth --arch=resnet50_ibn_b --out=ibn_b.safetensors

Equivalent to `jaxreid convert`.
"""

import sys

from jaxreid.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
