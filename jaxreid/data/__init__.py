"""Input: data sets on disk, decoding, augmentation, batches. Only here is TensorFlow imported."""

import os

# TensorFlow reads these when it is first imported. Its notes say nothing to a user of this package,
# and oneDNN's product of floats is not the same on every machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
