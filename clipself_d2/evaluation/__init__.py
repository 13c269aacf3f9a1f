"""Evaluation: how well regions are classified."""

from clipself_d2.evaluation.region_accuracy import RegionClassificationEvaluator, mean_class_accuracy

__all__ = ["RegionClassificationEvaluator", "mean_class_accuracy"]
