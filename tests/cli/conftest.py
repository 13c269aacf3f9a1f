"""Tiny CLIPs of every family, as the tests of clip/ have them."""

from tests.clip.conftest import built, checkpoint, configs, towers  # noqa: F401
