"""Measurements of speed and memory, each against a reference in the same run: `tools/benchmark.py`."""
