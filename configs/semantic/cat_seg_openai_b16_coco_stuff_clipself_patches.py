"""CAT-Seg trained on COCO-Stuff with the tower of CLIPSelf on image patches: OpenAI CLIP B/16.

Table 5: 1.8 mIoU more than the untouched tower's on ADE-150 (29.0).

    python tools/train_net.py --config-file configs/distillation/clipself_openai_b16_coco_patches.py
    python tools/train_net.py --config-file configs/semantic/cat_seg_openai_b16_coco_stuff_clipself_patches.py

The first command makes the tower; another is named by clip.pretrained=FILE.

| value       | paper             | released code | here                                    |
|-------------|-------------------|---------------|-----------------------------------------|
| image tower | CLIPSelf, patches | -             | output/clipself_openai_b16_coco_patches |

All else is as in cat_seg_openai_b16_coco_stuff.py; CLIPSelf's own code has no CAT-Seg.
"""

from .cat_seg_openai_b16_coco_stuff import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.pretrained = "output/clipself_openai_b16_coco_patches/tower.safetensors"
train.output_dir = "output/cat_seg_openai_b16_coco_stuff_clipself_patches"
