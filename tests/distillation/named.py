"""The tiny CLIP under region-text supervision: nouns, their embeddings, and samples with named regions."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from clipself_d2.clip import build_image_tower
from clipself_d2.distillation import RegionText
from clipself_d2.vocabulary import save_text_embeddings
from tests.distillation import tiny

NOUNS = [f"noun {k}" for k in range(12)]


def write_rows(folder: Path) -> Path:
    """A file of unit vectors for the nouns."""
    path = folder / "nouns.npy"
    vectors = torch.randn(len(NOUNS), 16, generator=torch.Generator().manual_seed(0))
    save_text_embeddings(F.normalize(vectors, dim=1), NOUNS, path)
    return path


def build(model_file: str, rows: Path, **kwargs: Any) -> RegionText:
    """The same weights every time; all nouns are judged."""
    torch.manual_seed(0)
    options = {"student_size": 64, "temperature": 20.0, "num_sampled": 100, **kwargs}
    return RegionText(build_image_tower(model_file, None), NOUNS, rows, **options)


def sample(draw: int, regions: int) -> dict[str, Any]:
    """A training sample, a function of its arguments."""
    classes = torch.randint(len(NOUNS), (regions,), generator=torch.Generator().manual_seed(draw))
    return {**tiny.sample(draw, regions), "classes": classes}


def train_shares(model_file: str, ranks: int, output: str) -> None:
    """As `tiny.train_shares`; the embeddings lie beside the model."""
    tiny.train_shares(model_file, ranks, output, partial(build, rows=Path(model_file).with_name("nouns.npy")), sample)
