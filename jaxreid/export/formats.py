"""Formats of an export, and what a file may hold; nothing here needs JAX."""

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
