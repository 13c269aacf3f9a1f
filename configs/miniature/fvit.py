"""F-ViT on OV-Shapes, on the shipped CLIP's frozen tower: the miniature of the paper's Table 3a.

    python tools/train_net.py --config-file configs/miniature/fvit.py

and on the tower of a distillation:

    python tools/train_net.py --config-file configs/miniature/fvit.py train.output_dir=output/fvit_patches \\
        clip.pretrained=output/clipself_patches/tower.safetensors

| value                     | paper, B/16 on OV-COCO      | here                                          |
|---------------------------|-----------------------------|-----------------------------------------------|
| image, blocks             | 640; 3, 5, 7, 11 of 12      | 128; 2, 5 of 6                                |
| levels                    | strides 4..64, 256 channels | strides 4, 8, 16, 96 channels                 |
| anchors                   | 8 x stride                  | 6 x stride                                    |
| proposals                 | 1,000                       | 100                                           |
| classes seen, novel       | 48, 17                      | 62, 34                                        |
| jitter, mirror            | 0.1..2, yes                 | 0.8..1.25, no: shapes have a left and a right |
| alpha, beta, temperatures | 0.1, 0.8, 50 (learned), 75  | the same                                      |
| optimizer, lr             | AdamW, 1e-4 constant        | Muon, 4e-3, cosine to 0                       |
| batch, steps              | 64, 3 epochs                | 16, 200                                       |
| normalization             | ImageNet's (released code)  | the tower's own                               |

A trained one ships: detector.py.
"""

from clipself_d2.miniature import MODEL, TEMPLATES, WEIGHTS

from ..common.detection import clip, dataloader, model, shape, simple_pyramid
from ..common.optim import lr_multiplier
from ..common.optim import muon as optimizer
from ..common.train import train

clip.update(name=MODEL, pretrained=WEIGHTS)
shape.update(block_dim=192, embed_dim=128, strides=[4, 8, 16], norm="naiveSyncBN")
model.update(size=128, pixel_stats="clip")
model.backbone.blocks = [2, 5]
model.backbone.pyramid.update(scales=[2, 1], channels=96)
simple_pyramid.update(scales=[2, 1], channels=96)
model.rpn.update(
    channels=96, anchor_scale=6.0, batch_size_per_image=128, pre_nms_topk=[300, 300], post_nms_topk=[100, 100]
)
model.roi_heads.update(canonical_size=28.0, batch_size_per_image=64, beta=0.8)
model.roi_heads.box_head.update(channels=96, num_convs=2)
model.vocabulary.text.templates = list(TEMPLATES)
dataloader.train.update(dataset="ov_shapes_train_base", total_batch_size=16, num_workers=1)
dataloader.train.mapper.update(scale_range=[0.8, 1.25], flip=0.0)
dataloader.test.update(dataset="ov_shapes_val", num_workers=0, batch_size=10)
lr_multiplier.warmup_iters = 50
train.update(max_iter=200, log_period=50, clip_grad_norm=1.0, checkpointer=dict(period=100))
