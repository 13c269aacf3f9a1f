"""Regions of an image: dense maps and pooling, crops, grids and proposals, score fusion."""

from clipself_d2.regions.classifier import RegionClassifier
from clipself_d2.regions.crops import crop_and_resize, letterbox
from clipself_d2.regions.dense import DenseFeatures, LetterboxedImages, dense_features, letterbox_images
from clipself_d2.regions.embedder import RegionEmbedder
from clipself_d2.regions.fusion import fuse_scores
from clipself_d2.regions.grids import GridRegions, grid_boxes, grid_shapes
from clipself_d2.regions.packed_masks import PackedMasks
from clipself_d2.regions.pooling import letterbox_masks, pool_boxes, pool_masks, resize_masks
from clipself_d2.regions.proposals import ProposalRegions, enlarge, load_proposals

__all__ = [
    "DenseFeatures",
    "GridRegions",
    "LetterboxedImages",
    "PackedMasks",
    "ProposalRegions",
    "RegionClassifier",
    "RegionEmbedder",
    "crop_and_resize",
    "dense_features",
    "enlarge",
    "fuse_scores",
    "grid_boxes",
    "grid_shapes",
    "letterbox",
    "letterbox_images",
    "letterbox_masks",
    "load_proposals",
    "pool_boxes",
    "pool_masks",
    "resize_masks",
]
