"""CLIP: image towers, text tower, vocabularies, checkpoints in every published format."""

from clipself_d2.clip.build import build_image_tower, build_text_tower, build_towers
from clipself_d2.clip.checkpoint import interpolate, load_checkpoint, read_checkpoint, save_checkpoint
from clipself_d2.clip.text import TextTower
from clipself_d2.clip.tower import ImageTower, TowerFeatures
from clipself_d2.vocabulary import (
    TextClassifier,
    load_text_embeddings,
    max_over_synonyms,
    save_text_embeddings,
    synonym_classes,
)

__all__ = [
    "ImageTower",
    "TextClassifier",
    "TextTower",
    "TowerFeatures",
    "build_image_tower",
    "build_text_tower",
    "build_towers",
    "interpolate",
    "load_checkpoint",
    "load_text_embeddings",
    "max_over_synonyms",
    "read_checkpoint",
    "save_checkpoint",
    "save_text_embeddings",
    "synonym_classes",
]
