"""Tests of the config files."""
