"""Evaluation: Detectron2's evaluators with the metrics of open-vocabulary work, and the accuracy of regions."""

from clipself_d2.evaluation.open_vocabulary_coco import OpenVocabularyCOCOEvaluator, TransferEvaluator
from clipself_d2.evaluation.open_vocabulary_lvis import OpenVocabularyLVISEvaluator
from clipself_d2.evaluation.panoptic import OpenVocabularyPanopticEvaluator
from clipself_d2.evaluation.proposal_recall import ProposalEvaluator
from clipself_d2.evaluation.region_accuracy import RegionClassificationEvaluator, mean_class_accuracy
from clipself_d2.evaluation.semantic_coherence import SemanticCoherenceEvaluator

__all__ = [
    "OpenVocabularyCOCOEvaluator",
    "OpenVocabularyLVISEvaluator",
    "OpenVocabularyPanopticEvaluator",
    "ProposalEvaluator",
    "RegionClassificationEvaluator",
    "SemanticCoherenceEvaluator",
    "TransferEvaluator",
    "mean_class_accuracy",
]
