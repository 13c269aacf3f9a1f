"""F-ViT on OV-COCO with the tower of CLIPSelf on image patches: EVA-02-CLIP L/14, 336 px.

Tables 3a and A5, AP50: novel 38.4, base 60.6, all 54.8.

    python tools/train_net.py --config-file configs/distillation/clipself_eva02_l14_336_coco_patches.py
    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_ovcoco_clipself_patches.py

The first command makes the tower; another is named by clip.pretrained=FILE.

| value       | paper             | released code     | here                                       |
|-------------|-------------------|-------------------|--------------------------------------------|
| image tower | CLIPSelf, patches | CLIPSelf, patches | output/clipself_eva02_l14_336_coco_patches |

All else is as in fvit_eva02_l14_336_ovcoco.py.
"""

from .fvit_eva02_l14_336_ovcoco import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.pretrained = "output/clipself_eva02_l14_336_coco_patches/tower.safetensors"
train.output_dir = "output/fvit_eva02_l14_336_ovcoco_clipself_patches"
