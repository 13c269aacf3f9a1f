"""A mask generator for OV-Shapes: SOLOMasks on the shipped CLIP's frozen tower, trained on the base classes.

    python tools/train_net.py --config-file configs/miniature/panoptic_masks.py

| value            | here                                                |
|------------------|-----------------------------------------------------|
| image            | 128 px                                              |
| masks, cells     | strides 4 and 8, from the pyramid of blocks 2 and 5 |
| batch, steps     | 16, 200                                             |
| Muon             | lr 4e-3, weight decay 0.1                           |
"""

from detectron2.config import LazyCall as L

from clipself_d2.backbones import CLIPBackbone, FPNPyramid
from clipself_d2.clip import build_image_tower
from clipself_d2.data import build_train_loader
from clipself_d2.miniature import MODEL, TEMPLATES, WEIGHTS
from clipself_d2.miniature.solo_masks import SegmentMapper, SOLOHead, SOLOMasks

from ..common.optim import lr_multiplier
from ..common.optim import muon as optimizer
from ..common.panoptic import clip
from ..common.panoptic import model as _named
from ..common.train import train

clip.update(name=MODEL, pretrained=WEIGHTS)
_named.vocabulary.update(dataset="ov_shapes_train_panoptic")
_named.vocabulary.text.templates = list(TEMPLATES)
model = L(SOLOMasks)(
    backbone=L(CLIPBackbone)(
        # Not ${clip}: configs/miniature/panoptic.py varies the tower that names the masks, not the one that finds them.
        tower=L(build_image_tower)(name=MODEL, pretrained=WEIGHTS),
        blocks=[2, 5],
        pyramid=L(FPNPyramid)(in_dim=192, scales=[2, 1], channels=96, norm="GN"),
    ),
    head=L(SOLOHead)(channels=96, embed_dim=128, mask_channels=32, num_convs=2),
    vocabulary=_named.vocabulary,
    size=128,
)
_data = dict(dataset="ov_shapes_train_panoptic", mapper=L(SegmentMapper)(), total_batch_size=16)
dataloader = dict(train=L(build_train_loader)(**_data, seed="${train.seed}", num_workers=1))
lr_multiplier.warmup_iters = 50
train.update(max_iter=200, log_period=25, clip_grad_norm=1.0)
