"""F-ViT: open-vocabulary detection on a frozen CLIP image tower (paper, section 3.3)."""

from clipself_d2.detection.fvit import FViT
from clipself_d2.detection.heads import BoxHead, CosineClassifier
from clipself_d2.detection.pooler import RegionPooler
from clipself_d2.detection.roi_heads import OpenVocabularyROIHeads
from clipself_d2.detection.rpn import RPNHead, build_rpn

__all__ = [
    "BoxHead",
    "CosineClassifier",
    "FViT",
    "OpenVocabularyROIHeads",
    "RPNHead",
    "RegionPooler",
    "build_rpn",
]
