"""Formats of an export, and the parts of a model that a file may hold; needs no JAX."""

# Suffixes of each format, the usual one first; a SavedModel is a folder.
FORMATS = {
    "onnx": (".onnx",),
    "stablehlo": (".stablehlo",),
    "savedmodel": ("",),
    "tflite": (".tflite",),
    "torch": (".pth", ".safetensors"),
}
# Parts of a model.
PARTS = ("encoder", "matcher", "pair")
# Trackers whose input an encoder can take.
LIKE = ("boxmot",)
