"""What OV-LVIS changes in F-ViT: masks, a norm in the RPN, 1,203 classes, and thresholds for many of them."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead

from clipself_d2.evaluation import OpenVocabularyLVISEvaluator

from .detection import clip, dataloader, model, shape

model.rpn.norm = "${shape.norm}"
model.roi_heads.update(
    mask_head=L(MaskRCNNConvUpsampleHead)(
        input_shape=L(ShapeSpec)(channels=256),
        num_classes=1,  # class-agnostic
        conv_dims=[256] * 5,  # four convolutions and the up-sampling one
        conv_norm="${shape.norm}",
    ),
    mask_resolution=14,
    background_weight=0.9,
    clip_temperature=50.0,
    score_thresh=1e-4,
    nms_thresh=0.5,
    detections_per_image=300,
)
model.vocabulary.dataset = "lvis_v1_val"
dataloader.train.dataset = "ov_lvis_train"
dataloader.train.mapper.masks = True
dataloader.test.dataset = "lvis_v1_val"
dataloader.evaluator = L(OpenVocabularyLVISEvaluator)(
    dataset_name="${dataloader.test.dataset}", tasks=["segm", "bbox"], output_dir="${train.output_dir}"
)
