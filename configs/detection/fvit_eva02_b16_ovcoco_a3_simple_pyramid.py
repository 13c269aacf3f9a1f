"""F-ViT with ViTDet's simple feature pyramid on the last block: EVA-02-CLIP B/16 after CLIPSelf on image patches.

Table A3, AP50: novel 23.1, base 46.6, all 40.4. The paper's detector has 33.6, 54.2, 48.8.

    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_ovcoco_a3_simple_pyramid.py

| value   | paper                      | released code | here                         |
|---------|----------------------------|---------------|------------------------------|
| pyramid | simple pyramid, last block | -             | simple pyramid, LN, block 11 |

All else is as in fvit_eva02_b16_ovcoco_clipself_patches.py.
"""

from detectron2.config import LazyCall as L

from clipself_d2.backbones import SimplePyramid

from .fvit_eva02_b16_ovcoco_clipself_patches import clip, dataloader, lr_multiplier, model, optimizer, shape, train

model.backbone.update(
    blocks=[11],
    pyramid=L(SimplePyramid)(in_dim="${shape.block_dim}", scales=[4, 2, 1, 0.5], channels=256, norm="LN"),
)
train.output_dir = "output/fvit_eva02_b16_ovcoco_a3_simple_pyramid"
