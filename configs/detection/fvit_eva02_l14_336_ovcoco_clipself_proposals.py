"""F-ViT on OV-COCO with the tower of CLIPSelf on region proposals: EVA-02-CLIP L/14, 336 px.

Tables 3a and A5, AP50: novel 44.3, base 64.1, all 59.0.

    python tools/train_net.py --config-file configs/distillation/clipself_eva02_l14_336_coco_proposals.py
    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_ovcoco_clipself_proposals.py

The first command makes the tower; another is named by clip.pretrained=FILE.

| value       | paper               | released code       | here                                         |
|-------------|---------------------|---------------------|----------------------------------------------|
| image tower | CLIPSelf, proposals | CLIPSelf, proposals | output/clipself_eva02_l14_336_coco_proposals |

All else is as in fvit_eva02_l14_336_ovcoco.py.
"""

from .fvit_eva02_l14_336_ovcoco import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.pretrained = "output/clipself_eva02_l14_336_coco_proposals/tower.safetensors"
train.output_dir = "output/fvit_eva02_l14_336_ovcoco_clipself_proposals"
