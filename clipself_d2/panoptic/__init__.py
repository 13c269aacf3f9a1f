"""Open-vocabulary panoptic segmentation: CLIP's opinion of the masks of any generator."""

from clipself_d2.panoptic.masks import GroundTruthMasks, MaskGenerator, MaskPredictions

__all__ = ["GroundTruthMasks", "MaskGenerator", "MaskPredictions"]
