"""The paper's tables and figures as commands: what `tools/reproduce.py` runs.

`tables` says what a table is; `miniature` and `paper` hold the tables at either scale, as data; `plan` turns a row into
a command and what that needs; `session` runs each command once; `outcome`, `page` and `figures` show the result.
"""
