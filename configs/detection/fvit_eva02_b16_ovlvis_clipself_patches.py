"""F-ViT on OV-LVIS with the tower of CLIPSelf on image patches: EVA-02-CLIP B/16.

Tables 3b and A6, mask AP: rare 25.3, common 21.8, frequent 29.1, all 25.2.

    python tools/train_net.py --config-file configs/distillation/clipself_eva02_b16_lvis_patches.py
    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_ovlvis_clipself_patches.py

The first command makes the tower; another is named by clip.pretrained=FILE.

| value       | paper             | released code     | here                                   |
|-------------|-------------------|-------------------|----------------------------------------|
| image tower | CLIPSelf, patches | CLIPSelf, patches | output/clipself_eva02_b16_lvis_patches |

All else is as in fvit_eva02_b16_ovlvis.py.
"""

from .fvit_eva02_b16_ovlvis import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.pretrained = "output/clipself_eva02_b16_lvis_patches/tower.safetensors"
train.output_dir = "output/fvit_eva02_b16_ovlvis_clipself_patches"
