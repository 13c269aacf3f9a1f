"""Reasons to stop a run."""

from clipself_d2.errors import RunError


class NonFiniteLossError(RunError):
    """A loss or a gradient became NaN or infinite; the line names the iteration and the images."""


class NonFiniteWeightsError(RunError):
    """A weight is NaN or infinite: nothing is saved or exported; the line names it."""


class CheckpointError(RunError):
    """The last checkpoint of a run could not be written; the line names the file."""
