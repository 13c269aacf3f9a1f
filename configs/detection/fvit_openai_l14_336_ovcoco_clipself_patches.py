"""F-ViT on OV-COCO with the tower of CLIPSelf on image patches: OpenAI CLIP L/14, 336 px.

Table A4, AP50: novel 31.3, base 49.2, all 44.6.

    python tools/train_net.py --config-file configs/distillation/clipself_openai_l14_336_coco_patches.py
    python tools/train_net.py --config-file configs/detection/fvit_openai_l14_336_ovcoco_clipself_patches.py

The first command makes the tower; another is named by clip.pretrained=FILE.

| value       | paper             | released code     | here                                        |
|-------------|-------------------|-------------------|---------------------------------------------|
| image tower | CLIPSelf, patches | CLIPSelf, patches | output/clipself_openai_l14_336_coco_patches |

All else is as in fvit_openai_l14_336_ovcoco.py.
"""

from .fvit_openai_l14_336_ovcoco import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.pretrained = "output/clipself_openai_l14_336_coco_patches/tower.safetensors"
train.output_dir = "output/fvit_openai_l14_336_ovcoco_clipself_patches"
