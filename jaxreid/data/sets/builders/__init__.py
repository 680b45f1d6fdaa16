"""TFDS builders, one folder for each data set."""
