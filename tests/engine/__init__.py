"""Tests of `clipself_d2.engine`."""
