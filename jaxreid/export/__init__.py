"""Models in the formats of other programs: ONNX, StableHLO, TensorFlow, PyTorch."""
