"""The paper's tables and figures as commands: what `tools/reproduce.py` runs.

`tables` says what a table is; `catalog`, `miniature`, `paper`, `numbers` and `shared` hold them at either scale, as
data; `plan` turns a row into a command and `needs` says what that needs; `session` runs each command once; `outcome`,
`page` and `figures` show the result.
"""
