"""Open-vocabulary panoptic segmentation: the masks of any generator, classified with CLIP's dense map."""

from clipself_d2.data.vocabulary import dataset_things, panoptic_vocabulary
from clipself_d2.panoptic.inference import panoptic_segments, semantic_map, top_instances
from clipself_d2.panoptic.mask_embedder import MaskEmbedder
from clipself_d2.panoptic.masks import GroundTruthMasks, MaskGenerator, MaskPredictions
from clipself_d2.panoptic.open_vocabulary import OpenVocabularyPanoptic
from clipself_d2.panoptic.plugins import FCCLIPMaskClassifier, ODISEMaskClassifier
from clipself_d2.panoptic.sam_masks import SAMMasks
from clipself_d2.panoptic.saved import SavedMasks
from clipself_d2.panoptic.standalone.clipself_masks import save_predictions
from clipself_d2.panoptic.transformers_masks import TransformersMasks

__all__ = [
    "FCCLIPMaskClassifier",
    "GroundTruthMasks",
    "MaskEmbedder",
    "MaskGenerator",
    "MaskPredictions",
    "ODISEMaskClassifier",
    "OpenVocabularyPanoptic",
    "SAMMasks",
    "SavedMasks",
    "TransformersMasks",
    "dataset_things",
    "panoptic_segments",
    "panoptic_vocabulary",
    "save_predictions",
    "semantic_map",
    "top_instances",
]
