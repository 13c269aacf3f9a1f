"""clipself_d2: CLIPSelf and open-vocabulary dense prediction with CLIP vision transformers, on Detectron2."""

from importlib.util import find_spec

if find_spec("detectron2") is None:  # not on PyPI, so pip cannot require it
    raise ImportError("clipself_d2 needs Detectron2, which pip cannot fetch by name: see docs/install.md")

__version__ = "0.1.0"
