"""Data sets on disk, decoding, augmentation, batches. The only package that imports TensorFlow."""

import os

# TensorFlow reads these on its first import. Its start-up log is of no use to users of this
# package, and oneDNN's float products differ between machines.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
