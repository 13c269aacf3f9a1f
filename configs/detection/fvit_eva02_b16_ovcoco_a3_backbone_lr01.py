"""F-ViT with a tower that trains too, at 0.1 of the learning rate: EVA-02-CLIP B/16 after CLIPSelf on image patches.

Table A3, AP50: novel 21.8, base 58.6, all 48.8. The paper's detector has 33.6, 54.2, 48.8.

    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_ovcoco_a3_backbone_lr01.py

| value       | paper               | released code | here                 |
|-------------|---------------------|---------------|----------------------|
| image tower | learning rate x 0.1 | -             | its blocks, lr x 0.1 |

All else is as in fvit_eva02_b16_ovcoco_clipself_patches.py.
"""

from .fvit_eva02_b16_ovcoco_clipself_patches import clip, dataloader, lr_multiplier, model, optimizer, shape, train

model.backbone.trainable = True
optimizer.params.lr_factors = {"backbone.trained_tower": 0.1}
train.output_dir = "output/fvit_eva02_b16_ovcoco_a3_backbone_lr01"
