"""Regions of an image: where they come from, how they are cut, how their embeddings are pooled."""

from clipself_d2.regions.classifier import RegionClassifier
from clipself_d2.regions.crops import crop_and_resize, letterbox
from clipself_d2.regions.dense import dense_map, letterboxed_features
from clipself_d2.regions.embedder import RegionEmbedder
from clipself_d2.regions.fusion import fuse_scores
from clipself_d2.regions.grids import GridRegions, grid_boxes, grid_shapes, sample_grid
from clipself_d2.regions.pooling import letterbox_masks, pool_boxes, pool_masks, resize_masks
from clipself_d2.regions.proposals import ProposalRegions, enlarge, load_proposals, sample_proposals

__all__ = [
    "GridRegions",
    "ProposalRegions",
    "RegionClassifier",
    "RegionEmbedder",
    "crop_and_resize",
    "dense_map",
    "enlarge",
    "fuse_scores",
    "grid_boxes",
    "grid_shapes",
    "letterbox",
    "letterbox_masks",
    "letterboxed_features",
    "load_proposals",
    "pool_boxes",
    "pool_masks",
    "resize_masks",
    "sample_grid",
    "sample_proposals",
]
