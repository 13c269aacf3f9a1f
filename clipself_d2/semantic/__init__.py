"""Open-vocabulary semantic segmentation: CAT-Seg on any ViT tower, and zero-shot segmentation from dense maps."""

from clipself_d2.semantic.aggregation import CostAggregator
from clipself_d2.semantic.cat_seg import CATSeg
from clipself_d2.semantic.decoder import UpsamplingDecoder
from clipself_d2.semantic.finetune import train_queries_and_values
from clipself_d2.semantic.inference import cut_windows, merge_windows, window_corners
from clipself_d2.semantic.zero_shot import ZeroShotSegmenter, patch_weighted_scores

__all__ = [
    "CATSeg",
    "CostAggregator",
    "UpsamplingDecoder",
    "ZeroShotSegmenter",
    "cut_windows",
    "merge_windows",
    "patch_weighted_scores",
    "train_queries_and_values",
    "window_corners",
]
