"""The packages and files of the wheel; pyproject.toml has everything else."""

from pathlib import Path

from setuptools import find_packages, setup

SUFFIXES = ("json", "txt", "gz", "safetensors", "pth", "html")
CONFIGS = sorted({file.parent for file in Path("configs").glob("*/*.py")})

setup(
    packages=[
        *find_packages(include=["clipself_d2", "clipself_d2.*"]),
        *(f"clipself_d2.configs.{folder.name}" for folder in CONFIGS),
    ],
    package_dir={f"clipself_d2.configs.{folder.name}": str(folder) for folder in CONFIGS},
    package_data={"clipself_d2": ["py.typed", *(f"**/*.{suffix}" for suffix in SUFFIXES)]},
)
