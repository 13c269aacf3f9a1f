"""F-ViT with a feature pyramid network on the last block alone: EVA-02-CLIP B/16 after CLIPSelf on image patches.

Table A3, AP50: novel 26.5, base 47.0, all 41.6. The paper's detector has 33.6, 54.2, 48.8.

    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_ovcoco_a3_last_block.py

| value   | paper           | released code | here                          |
|---------|-----------------|---------------|-------------------------------|
| pyramid | FPN, last block | -             | FPN, block 11 for every level |

All else is as in fvit_eva02_b16_ovcoco_clipself_patches.py.
"""

from .fvit_eva02_b16_ovcoco_clipself_patches import clip, dataloader, lr_multiplier, model, optimizer, shape, train

model.backbone.blocks = [11, 11, 11, 11]
train.output_dir = "output/fvit_eva02_b16_ovcoco_a3_last_block"
