#!/bin/sh
# Print a Python 3.10 that can make virtual environments: $PYTHON, the PATH, pyenv, then uv. Exit 2 when there is none.

try() { # a candidate counts only if it runs: a pyenv shim may stand for a version that is not active
    "$1" -c 'import ensurepip, sys, venv; assert sys.version_info[:2] == (3, 10); print(sys.executable)' 2>/dev/null && exit 0
}

[ -n "$PYTHON" ] && try "$PYTHON"
try python3.10
try python3
try python
for candidate in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10*/bin/python3.10; do
    try "$candidate"
done
if command -v uv >/dev/null 2>&1; then
    try "$(uv python find --system 3.10 2>/dev/null)"
    uv python install -q 3.10 >&2 && try "$(uv python find --system 3.10 2>/dev/null)"
fi

cat >&2 <<'MESSAGE'
No working Python 3.10 was found on the PATH, in pyenv or through uv. Do one of these and run make again:
  pyenv install 3.10                      (https://github.com/pyenv/pyenv)
  uv python install 3.10                  (https://docs.astral.sh/uv)
  apt-get install python3.10 python3.10-venv
  make PYTHON=/path/to/python3.10 ...
On a newer Python, with upstream Detectron2: see docs/install.md.
MESSAGE
exit 2
