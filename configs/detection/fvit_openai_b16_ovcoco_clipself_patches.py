"""F-ViT on OV-COCO with the tower of CLIPSelf on image patches: OpenAI CLIP B/16.

Table A4, AP50: novel 29.8, base 46.9, all 42.5.

    python tools/train_net.py --config-file configs/distillation/clipself_openai_b16_coco_patches.py
    python tools/train_net.py --config-file configs/detection/fvit_openai_b16_ovcoco_clipself_patches.py

The first command makes the tower; another is named by clip.pretrained=FILE.

| value       | paper             | released code     | here                                    |
|-------------|-------------------|-------------------|-----------------------------------------|
| image tower | CLIPSelf, patches | CLIPSelf, patches | output/clipself_openai_b16_coco_patches |

All else is as in fvit_openai_b16_ovcoco.py.
"""

from .fvit_openai_b16_ovcoco import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.pretrained = "output/clipself_openai_b16_coco_patches/tower.safetensors"
train.output_dir = "output/fvit_openai_b16_ovcoco_clipself_patches"
