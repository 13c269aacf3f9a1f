"""F-ViT on a frozen tower: the released detectors' heads and data flow, with EVA-02-CLIP B/16's sizes on OV-COCO."""

from detectron2.config import LazyCall as L

from clipself_d2.backbones import CLIPBackbone, FPNPyramid
from clipself_d2.clip import build_image_tower, build_text_tower
from clipself_d2.data import DetectionMapper, ImageMapper, build_test_loader, build_train_loader
from clipself_d2.data.vocabulary import dataset_vocabulary
from clipself_d2.detection import BoxHead, CosineClassifier, FViT, OpenVocabularyROIHeads, build_rpn
from clipself_d2.engine.config import on_device
from clipself_d2.evaluation import OpenVocabularyCOCOEvaluator
from clipself_d2.vocabulary import TextClassifier

clip = dict(name="EVA02-B-16", pretrained="merged2b_s8b_b131k")

# The blocks that feed the pyramid and their channels, length of the embeddings, the tower's stride; strides of the
# pyramid's levels, and of those that regions are pooled from; the normalisation of pyramid and heads.
shape = dict(
    blocks=[3, 5, 7, 11],
    block_dim=768,
    embed_dim=512,
    stride=16,
    strides=[4, 8, 16, 32, 64],
    region_strides=[4, 8, 16, 32],
    norm="SyncBN",
)

model = L(FViT)(
    backbone=L(CLIPBackbone)(
        tower=L(build_image_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
        blocks="${shape.blocks}",
        pyramid=L(FPNPyramid)(in_dim="${shape.block_dim}", scales=[4, 2, 1, 0.5], channels=256, norm="${shape.norm}"),
        trainable=False,
    ),
    rpn=L(build_rpn)(
        strides="${shape.strides}",
        channels=256,
        norm="",
        anchor_scale=8.0,
        aspect_ratios=[0.5, 1.0, 2.0],
        batch_size_per_image=256,
        pre_nms_topk=[2000, 2000],
        post_nms_topk=[1000, 1000],
        nms_thresh=0.7,
    ),
    roi_heads=L(OpenVocabularyROIHeads)(
        strides="${shape.region_strides}",
        dense_stride="${shape.stride}",
        box_head=L(BoxHead)(embed_dim="${shape.embed_dim}", channels=256, num_convs=4, norm="${shape.norm}"),
        classifier=L(CosineClassifier)(temperature=50.0),
        mask_head=None,
        fusion="fvit",
        alpha=0.1,
        beta=0.8,
        clip_temperature=75.0,
        background_weight=0.6,
        score_thresh=0.01,
        nms_thresh=0.4,
        detections_per_image=100,
        batch_size_per_image=512,
        positive_fraction=0.25,
        canonical_size=56.0,
    ),
    vocabulary=L(dataset_vocabulary)(
        dataset="ov_coco_val",
        text=L(TextClassifier)(
            tower=L(on_device)(
                module=L(build_text_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
                device="${train.device}",
            ),
        ),
    ),
    size=640,
    pixel_stats="imagenet",
)

dataloader = dict(
    train=L(build_train_loader)(
        dataset="ov_coco_train",
        mapper=L(DetectionMapper)(size="${model.size}", scale_range=[0.1, 2.0], flip=0.5, masks=False),
        total_batch_size=64,
        seed="${train.seed}",
        num_workers=4,
    ),
    test=L(build_test_loader)(dataset="ov_coco_val", mapper=L(ImageMapper)(), num_workers=4),
    evaluator=L(OpenVocabularyCOCOEvaluator)(
        dataset_name="${dataloader.test.dataset}", output_dir="${train.output_dir}"
    ),
)
