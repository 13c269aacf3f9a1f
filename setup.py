"""Packaging of clipself_d2. Detectron2 is not on PyPI and is installed apart: see docs/install.md."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "clipself_d2" / "__init__.py").read_text()).group(1)
README = ROOT / "README.md"
DOCS = ["furo", "myst-parser>=4", "sphinx>=8"]

setup(
    name="clipself_d2",
    version=VERSION,
    description="CLIPSelf and open-vocabulary dense prediction with CLIP vision transformers, on Detectron2",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["clipself_d2", "clipself_d2.*"]),
    package_data={"clipself_d2": [f"**/*.{suffix}" for suffix in ("json", "txt", "gz", "safetensors", "html")]},
    install_requires=[
        "fvcore",
        "iopath",
        "jinja2",
        "lvis",
        "matplotlib>=3.5",
        "numpy>=1.26",
        "omegaconf>=2.1",
        "open_clip_torch>=3",
        "pillow>=10.1",
        "pycocotools>=2.0.7",
        "rich",
        "safetensors",
        "scikit-learn",
        "scipy",
        "tensorboard",
        "timm>=1.0.15",
        "torch>=2.5",
        "torchvision>=0.20",
        "tqdm",
    ],
    # panopticapi, for panoptic quality, is in no extra: its PyPI package would pull numpy below 2, although it runs
    # with numpy 2. Install it by `pip install --no-deps panopticapi-lite` (docs/install.md).
    extras_require={
        "panoptic": ["transformers>=5"],  # Mask2Former and MaskFormer as mask generators
        "docs": DOCS,
        "dev": [*DOCS, "hypothesis", "mypy", "pytest", "pytest-xdist", "ruff", "transformers>=5"],
    },
)
