"""F-ViT on OV-COCO with the tower of CLIPSelf on image patches: EVA-02-CLIP B/16.

Tables 3a and A5, AP50: novel 33.6, base 54.2, all 48.8.

    python tools/train_net.py --config-file configs/distillation/clipself_eva02_b16_coco_patches.py
    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_ovcoco_clipself_patches.py

The first command makes the tower; another is named by clip.pretrained=FILE.

| value       | paper             | released code     | here                                   |
|-------------|-------------------|-------------------|----------------------------------------|
| image tower | CLIPSelf, patches | CLIPSelf, patches | output/clipself_eva02_b16_coco_patches |

All else is as in fvit_eva02_b16_ovcoco.py.
"""

from .fvit_eva02_b16_ovcoco import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.pretrained = "output/clipself_eva02_b16_coco_patches/tower.safetensors"
train.output_dir = "output/fvit_eva02_b16_ovcoco_clipself_patches"
