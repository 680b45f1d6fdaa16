"""What every prepared data set holds of an image."""

import numpy as np
import tensorflow_datasets as tfds


def image_features() -> tfds.features.FeaturesDict:
    """The features that all builders share.

    Returns:
        image: the encoded file; name: of the file, unique in its split; pid: person as published;
        camid: camera, from 0; time: seconds, NaN where unknown.
    """
    # As bytes: TFDS would keep a plain float64 in 32 bits, which is 8 ms too coarse.
    seconds = tfds.features.Tensor(
        shape=(), dtype=np.float64, encoding=tfds.features.Encoding.BYTES
    )
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg", shape=(None, None, 3)),
            "name": tfds.features.Text(),
            "pid": np.int32,
            "camid": np.int32,
            "time": seconds,
        }
    )
