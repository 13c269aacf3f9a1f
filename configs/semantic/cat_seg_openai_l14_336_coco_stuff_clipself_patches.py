"""CAT-Seg trained on COCO-Stuff with the tower of CLIPSelf on image patches: OpenAI CLIP L/14, 336 px.

Table 5: 3.0 mIoU more than the untouched tower's on ADE-150 (34.5).

    python tools/train_net.py --config-file configs/distillation/clipself_openai_l14_336_coco_patches.py
    python tools/train_net.py --config-file configs/semantic/cat_seg_openai_l14_336_coco_stuff_clipself_patches.py

The first command makes the tower; another is named by clip.pretrained=FILE.

| value       | paper             | released code | here                                        |
|-------------|-------------------|---------------|---------------------------------------------|
| image tower | CLIPSelf, patches | -             | output/clipself_openai_l14_336_coco_patches |

All else is as in cat_seg_openai_l14_336_coco_stuff.py; CLIPSelf's own code has no CAT-Seg.
"""

from .cat_seg_openai_l14_336_coco_stuff import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.pretrained = "output/clipself_openai_l14_336_coco_patches/tower.safetensors"
train.output_dir = "output/cat_seg_openai_l14_336_coco_stuff_clipself_patches"
