"""What importing the package loads."""

import subprocess
import sys


def test_lvis_and_panopticapi_are_imported_when_they_are_used():
    code = "import sys, clipself_d2.evaluation; print(sorted({'lvis', 'panopticapi', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
