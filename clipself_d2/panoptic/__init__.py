"""Open-vocabulary panoptic segmentation: CLIP's opinion of the masks of any generator."""

from clipself_d2.panoptic.inference import panoptic_segments, semantic_map, top_instances
from clipself_d2.panoptic.mask_embedder import MaskEmbedder
from clipself_d2.panoptic.masks import GroundTruthMasks, MaskGenerator, MaskPredictions
from clipself_d2.panoptic.open_vocabulary import OpenVocabularyPanoptic
from clipself_d2.panoptic.saved import SavedMasks, save_predictions
from clipself_d2.panoptic.vocabulary import dataset_things, panoptic_vocabulary

__all__ = [
    "GroundTruthMasks",
    "MaskEmbedder",
    "MaskGenerator",
    "MaskPredictions",
    "OpenVocabularyPanoptic",
    "SavedMasks",
    "dataset_things",
    "panoptic_segments",
    "panoptic_vocabulary",
    "save_predictions",
    "semantic_map",
    "top_instances",
]
