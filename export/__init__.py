"""From a checkpoint to an ONNX file and an engine, verified at each step; installs as ``fcn_edge.export``."""
