"""The two exceptions that tools print in one line; `command_line.exit_codes` gives them their exit codes."""


class InputError(ValueError):
    """A wrong argument, file or config, in one line: which file, which field, and how to fix it.

    Tools print the line and exit with code 2; anything else that escapes a tool is a bug.
    """


class RunError(Exception):
    """A run cannot go on although its input was correct, in one line. Tools print it and exit with code 1."""
