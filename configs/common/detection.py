"""F-ViT on a frozen tower: the released detectors' heads and data flow, with B/16's shapes, on OV-COCO.

| value                 | paper         | released code                   | here                        |
|-----------------------|---------------|---------------------------------|-----------------------------|
| input size, EVA-02    | -             | 640 (B/16), 896 (L/14)          | as released                 |
| input size, OpenAI    | 672 for L/14  | 640 for B/16 (CLIM)             | 640 (B/16), 672 (L/14)      |
| pixel statistics      | -             | ImageNet's; OpenAI CLIP's: CLIM | as released                 |
| blocks                | -             | 3, 5, 7, 11; L/14 6, 10, 14, 23 | as released                 |
| up-sampling           | interpolation | transposed convolutions         | as released                 |
| strides               | -             | 4, 8, 16, 32; RPN 64            | as released                 |
| strides of L/14       | -             | 3.5, 7, 14, 28; RPN 56          | as released                 |
| anchors               | -             | 8 strides; 1/2, 1, 2            | as released                 |
| proposals             | -             | 1,000 of 2,000 a level, NMS 0.7 | as released                 |
| regions per image     | -             | 512, 1/4 of them objects        | as released                 |
| temperature           | -             | learned, from 50                | as released                 |
| background, EVA-02    | -             | text, loss weight 0.6           | as released                 |
| background, OpenAI    | -             | learned (CLIM), weight -        | learned, weight 0.6         |
| alpha, beta, CLIP's T | -             | 0.1, 0.8, 75 (OpenAI: -)        | 0.1, 0.8, 75                |
| detections            | -             | score > 0.01, NMS 0.4, 100      | as released                 |
| jitter                | -             | 0.1 .. 2.0, crop, flip 0.5      | as released                 |
| resize                | -             | OpenCV's, not antialiased       | as released                 |
| batch, steps          | -             | 64, 3 epochs                    | 64, 5,052 of 107,761 images |
| AdamW                 | -             | lr 1e-4, decay 0.1, clip 1.0    | as released                 |
| schedule              | -             | 250 steps of warm-up, constant  | as released                 |
| precision             | -             | fp16 autocast                   | bf16 autocast               |

CLIPSelf has no recipe for OpenAI's models; "CLIM" is the code that its authors point to instead. What that does not say
is as with EVA-02. The released code's authors find the best novel AP often after the second epoch: results of every
epoch are in the log.

A row of the paper's tables is the tower's file, on the untouched tower, or with

| tower               | override                                                               |
|---------------------|------------------------------------------------------------------------|
| CLIPSelf, patches   | clip.pretrained=output/clipself_TOWER_coco_patches/tower.safetensors   |
| CLIPSelf, proposals | clip.pretrained=output/clipself_TOWER_coco_proposals/tower.safetensors |

and train.output_dir=output/NAME for a folder of its own. The towers are those of distillation.py.
"""

from detectron2.config import LazyCall as L

from clipself_d2.backbones import CLIPBackbone, FPNPyramid, SimplePyramid
from clipself_d2.clip import build_image_tower, build_text_tower
from clipself_d2.data import DetectionMapper, ImageMapper, build_test_loader, build_train_loader
from clipself_d2.data.vocabulary import dataset_vocabulary
from clipself_d2.detection import BoxHead, CosineClassifier, FViT, OpenVocabularyROIHeads, build_rpn
from clipself_d2.engine.config import on_device
from clipself_d2.evaluation import OpenVocabularyCOCOEvaluator
from clipself_d2.vocabulary import TextClassifier

clip = dict(name="EVA02-B-16", pretrained="merged2b_s8b_b131k")

# The blocks that feed the pyramid and their channels, the length of an embedding, the strides of the pyramid's levels;
# the norm of pyramid and heads.
shape = dict(
    blocks=[3, 5, 7, 11],
    block_dim=768,
    embed_dim=512,
    strides=[4, 8, 16, 32, 64],
    norm="SyncBN",
)

large_shape = dict(
    blocks=[6, 10, 14, 23],
    block_dim=1024,
    embed_dim=768,
    strides=[3.5, 7, 14, 28, 56],
)

# Another pyramid (table A3): model.backbone.pyramid='${simple_pyramid}' model.backbone.blocks=[11].
simple_pyramid = L(SimplePyramid)(in_dim="${shape.block_dim}", scales=[4, 2, 1, 0.5], channels=256, norm="LN")

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
        strides="${shape.strides}",
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
        dataset="${dataloader.test.dataset}",
        text=L(TextClassifier)(
            tower=L(on_device)(
                module=L(build_text_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
                device="${train.device}",
            ),
        ),
    ),
    size=640,
    pixel_stats="imagenet",
    antialias=False,
)

dataloader = dict(
    train=L(build_train_loader)(
        dataset="ov_coco_train",
        mapper=L(DetectionMapper)(
            size="${model.size}", scale_range=[0.1, 2.0], flip=0.5, masks=False, antialias="${model.antialias}"
        ),
        total_batch_size=64,
        seed="${train.seed}",
        num_workers=4,
    ),
    test=L(build_test_loader)(dataset="ov_coco_val", mapper=L(ImageMapper)(), num_workers=4),
    evaluator=L(OpenVocabularyCOCOEvaluator)(
        dataset_name="${dataloader.test.dataset}", output_dir="${train.output_dir}"
    ),
)
