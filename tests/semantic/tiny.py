"""A CAT-Seg of a few thousand parameters on tiny towers, and training samples."""

from typing import Any

import torch

from clipself_d2.clip import ImageTower
from clipself_d2.semantic import CATSeg, CostAggregator, UpsamplingDecoder
from clipself_d2.vocabulary import Vocabulary
from tests.detection.tiny import build_words

TOWERS = ("tiny-vit-8", "tiny-eva-14")
WORDS = ["red", "blue", "green", "lawn", "pond", "sky"]


def words(names=WORDS, novel=()) -> Vocabulary:
    """Random embeddings, the same for the same word; no background."""
    full = build_words(list(names), list(novel))
    return Vocabulary(full.classes, full.text_embeddings, novel=list(novel))


def build(tower: ImageTower, vocabulary: Vocabulary | None = None, seed: int = 0, **options: Any) -> CATSeg:
    """The same weights for the same seed; maps of 4 x 4, logits of 16 x 16."""
    torch.manual_seed(seed)
    aggregator = CostAggregator(16, 16, 8, layers=2, heads=2, window=2, pooling=2)
    decoder = UpsamplingDecoder(32, 16, (8, 4), (8, 8), (4, 2))
    options = {"size": 4 * tower.stride, "blocks": (0, 1), **options}
    return CATSeg(tower, vocabulary or words(), aggregator, decoder, **options)


def sample(seed: int, num_classes: int = len(WORDS), size: tuple[int, int] = (20, 20)) -> dict[str, Any]:
    """A random image with random labels, a corner of which is not labeled."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, size, generator=generator)
    labels[:5, :7] = 255
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    return {"image": image, "sem_seg": labels, "file_name": f"{seed}.png"}
