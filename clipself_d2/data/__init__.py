"""Data: registered data sets, reading of images, mappers from records to samples, and the resumable loader."""

from clipself_d2.data import builtin  # noqa: F401  (registers the data sets)
from clipself_d2.data.annotations import load_captioned_images, load_captions, load_image_list, load_panoptic
from clipself_d2.data.captions import CaptionMapper
from clipself_d2.data.catalog import get_dataset, register
from clipself_d2.data.detection import DetectionMapper, ImageMapper
from clipself_d2.data.distillation import DistillationMapper
from clipself_d2.data.image import ImageError, read_image
from clipself_d2.data.instance_regions import InstanceRegionMapper
from clipself_d2.data.labeled_regions import LabeledRegionMapper, LabeledRegions, load_category_names
from clipself_d2.data.loader import RegionDataLoader, build_test_loader, build_train_loader
from clipself_d2.data.panoptic import PanopticMapper, PanopticRegionMapper
from clipself_d2.data.registration import (
    register_captions,
    register_image_list,
    register_instances,
    register_panoptic,
    register_panoptic_regions,
    register_semantic,
    register_voc,
)
from clipself_d2.data.sampler import EpochBatchSampler
from clipself_d2.data.semantic import SemanticMapper

__all__ = [
    "CaptionMapper",
    "DetectionMapper",
    "DistillationMapper",
    "EpochBatchSampler",
    "ImageError",
    "ImageMapper",
    "InstanceRegionMapper",
    "LabeledRegionMapper",
    "LabeledRegions",
    "PanopticMapper",
    "PanopticRegionMapper",
    "RegionDataLoader",
    "SemanticMapper",
    "build_test_loader",
    "build_train_loader",
    "get_dataset",
    "load_captioned_images",
    "load_captions",
    "load_category_names",
    "load_image_list",
    "load_panoptic",
    "read_image",
    "register",
    "register_captions",
    "register_image_list",
    "register_instances",
    "register_panoptic",
    "register_panoptic_regions",
    "register_semantic",
    "register_voc",
]
