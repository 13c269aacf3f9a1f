"""F-ViT on OV-COCO with the tower of CLIPSelf on region proposals: EVA-02-CLIP B/16.

Tables 3a and A5, AP50: novel 37.6, base 54.9, all 50.4.

    python tools/train_net.py --config-file configs/distillation/clipself_eva02_b16_coco_proposals.py
    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_ovcoco_clipself_proposals.py

The first command makes the tower; another is named by clip.pretrained=FILE.

| value       | paper               | released code       | here                                     |
|-------------|---------------------|---------------------|------------------------------------------|
| image tower | CLIPSelf, proposals | CLIPSelf, proposals | output/clipself_eva02_b16_coco_proposals |

All else is as in fvit_eva02_b16_ovcoco.py.
"""

from .fvit_eva02_b16_ovcoco import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.pretrained = "output/clipself_eva02_b16_coco_proposals/tower.safetensors"
train.output_dir = "output/fvit_eva02_b16_ovcoco_clipself_proposals"
