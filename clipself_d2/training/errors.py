"""Why a run stopped when its input was in order. Tools print the line and exit with code 1."""


class RunError(Exception):
    """A run cannot go on; the text is one line."""


class NonFiniteLossError(RunError):
    """A loss or a gradient became NaN or infinite; the line names the iteration and the images."""


class CheckpointError(RunError):
    """The last checkpoint of a run could not be written; the line names the file."""
