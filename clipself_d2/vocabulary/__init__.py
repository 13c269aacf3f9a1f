"""Vocabularies: class names to prompts to text embeddings; the label sets of the data sets."""

from clipself_d2.vocabulary.label_sets import LABEL_SETS, class_names, label_set, seen_classes
from clipself_d2.vocabulary.metadata import all_classes, thing_classes
from clipself_d2.vocabulary.parse import (
    ClassNames,
    check_vocabulary,
    describe_classes,
    parse_words,
    read_vocabulary,
)
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
