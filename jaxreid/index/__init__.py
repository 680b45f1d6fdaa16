"""Index: the features of many images on disk, searched without reading them all."""
