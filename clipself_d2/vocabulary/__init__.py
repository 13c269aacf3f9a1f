"""Vocabularies: class names to prompts to text embeddings; the label sets of the data sets."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clipself_d2.vocabulary.label_sets import LABEL_SETS, class_names, label_set, seen_classes
from clipself_d2.vocabulary.metadata import all_classes, thing_classes
from clipself_d2.vocabulary.parse import (
    ClassNames,
    check_vocabulary,
    describe_classes,
    parse_words,
    read_vocabulary,
)

if TYPE_CHECKING:
    from clipself_d2.vocabulary.synonyms import max_over_synonyms, synonym_classes
    from clipself_d2.vocabulary.text_classifier import TextClassifier
    from clipself_d2.vocabulary.text_embeddings import load_text_embeddings, save_text_embeddings
    from clipself_d2.vocabulary.vocabulary import Vocabulary

__all__ = [
    "LABEL_SETS",
    "ClassNames",
    "TextClassifier",
    "Vocabulary",
    "all_classes",
    "check_vocabulary",
    "class_names",
    "describe_classes",
    "label_set",
    "load_text_embeddings",
    "max_over_synonyms",
    "parse_words",
    "read_vocabulary",
    "save_text_embeddings",
    "seen_classes",
    "synonym_classes",
    "thing_classes",
]

# Imported on first use, because PyTorch takes seconds: commands read words before.
_LATER = {
    "TextClassifier": "text_classifier",
    "Vocabulary": "vocabulary",
    "load_text_embeddings": "text_embeddings",
    "max_over_synonyms": "synonyms",
    "save_text_embeddings": "text_embeddings",
    "synonym_classes": "synonyms",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'clipself_d2.vocabulary' has no attribute {name!r}")
    return getattr(import_module(f"clipself_d2.vocabulary.{_LATER[name]}"), name)
