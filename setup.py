"""The packages and files of the wheel; pyproject.toml has everything else."""

from setuptools import find_packages, setup

SUFFIXES = ("json", "txt", "gz", "safetensors", "html")

setup(
    packages=find_packages(include=["clipself_d2", "clipself_d2.*"]),
    package_data={"clipself_d2": ["py.typed", *(f"**/*.{suffix}" for suffix in SUFFIXES)]},
)
