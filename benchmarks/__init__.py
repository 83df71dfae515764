"""Accuracy and latency of a model, recorded with the machine's facts; installs as ``fcn_edge.benchmarks``."""
