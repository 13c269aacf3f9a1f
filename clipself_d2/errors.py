"""The one exception that a user's wrong input raises."""


class InputError(ValueError):
    """A wrong argument, file or config, said in one line: which file, which field, and how to mend it.

    Tools print the line and exit with code 2; anything else that escapes a tool is a bug.
    """
