"""CAT-Seg trained on COCO-Stuff with the tower of CLIPSelf on image patches: EVA-02-CLIP L/14, 336 px.

    python tools/train_net.py --config-file configs/distillation/clipself_eva02_l14_336_coco_patches.py
    python tools/train_net.py --config-file configs/semantic/cat_seg_eva02_l14_336_coco_stuff_clipself_patches.py

The first command makes the tower; another is named by clip.pretrained=FILE. All else is as in
cat_seg_eva02_l14_336_coco_stuff.py.
"""

from .cat_seg_eva02_l14_336_coco_stuff import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.pretrained = "output/clipself_eva02_l14_336_coco_patches/tower.safetensors"
train.output_dir = "output/cat_seg_eva02_l14_336_coco_stuff_clipself_patches"
