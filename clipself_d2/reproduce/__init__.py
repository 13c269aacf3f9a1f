"""The paper's tables and figures as commands: what `tools/reproduce.py` runs.

`table` says what an entry is, `entries` holds them, `plan` turns an entry into commands of `tools/train_net.py` and the
things that they need, `engine` runs those that have not been run before, `render` and `figures` show the outcome.
"""
