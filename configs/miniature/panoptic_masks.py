"""A mask generator for OV-Shapes, trained on the base classes, on the shipped CLIP's frozen tower.

    python tools/train_net.py --config-file configs/miniature/panoptic_masks.py

configs/miniature/panoptic.py puts it to use.
"""

from detectron2.config import LazyCall as L

from clipself_d2.clip import TextClassifier, build_image_tower, build_text_tower
from clipself_d2.data import build_train_loader
from clipself_d2.data.vocabulary import dataset_vocabulary
from clipself_d2.detection import CLIPBackbone, FPNPyramid
from clipself_d2.miniature import MODEL, TEMPLATES, WEIGHTS
from clipself_d2.panoptic.kernel_masks import KernelMasks
from clipself_d2.panoptic.kernel_masks_data import SegmentMapper
from clipself_d2.panoptic.kernel_masks_head import KernelHead
from clipself_d2.training.config import on_device

from ..common.optim import lr_multiplier, optimizer
from ..common.train import train

# The generator's own tower, whichever tower scores the masks later.
masks_clip = dict(name=MODEL, pretrained=WEIGHTS)

model = L(KernelMasks)(
    backbone=L(CLIPBackbone)(
        tower=L(build_image_tower)(name="${masks_clip.name}", pretrained="${masks_clip.pretrained}"),
        blocks=[2, 5],
        pyramid=L(FPNPyramid)(in_dim=192, scales=[2, 1], channels=96, norm="GN"),
    ),
    head=L(KernelHead)(channels=96, embed_dim=128, mask_channels=32, num_convs=2),
    vocabulary=L(dataset_vocabulary)(
        dataset="ov_shapes_val_panoptic",
        text=L(TextClassifier)(
            tower=L(on_device)(
                module=L(build_text_tower)(name="${masks_clip.name}", pretrained="${masks_clip.pretrained}"),
                device="${train.device}",
            ),
            templates=list(TEMPLATES),
        ),
        background=None,
    ),
    size=128,
)

dataloader = dict(
    train=L(build_train_loader)(
        dataset="ov_shapes_train_panoptic",
        mapper=L(SegmentMapper)(flip=0.0),
        total_batch_size=16,
        seed="${train.seed}",
        num_workers=1,
    ),
)

optimizer.lr = 1e-3
lr_multiplier.warmup_iters = 50
train.update(
    output_dir="output/miniature_panoptic_masks",
    max_iter=400,
    log_period=25,
    clip_grad_norm=1.0,
    checkpointer=dict(period=200),
)
