"""What `import clipself_d2` gives, and what it costs."""

import subprocess
import sys

import pytest

import clipself_d2
from clipself_d2.clip import build_towers
from clipself_d2.detection import FViT
from clipself_d2.distillation import CLIPSelf
from clipself_d2.regions import RegionClassifier
from clipself_d2.vocabulary import Vocabulary


def test_the_package_exports_what_a_user_starts_with():
    for export in (build_towers, FViT, CLIPSelf, RegionClassifier, Vocabulary):
        assert getattr(clipself_d2, export.__name__) is export and export.__name__ in dir(clipself_d2)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = clipself_d2.nothing


def test_importing_the_package_imports_no_framework():
    code = "import sys, clipself_d2; print(*{'torch', 'detectron2', 'open_clip', 'timm'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
