"""Open-vocabulary semantic segmentation: cost aggregation on a CLIP tower, and dense zero-shot segmentation."""

from clipself_d2.semantic.inference import cut_windows, merge_windows, resize_scores, window_corners

__all__ = [
    "cut_windows",
    "merge_windows",
    "resize_scores",
    "window_corners",
]
