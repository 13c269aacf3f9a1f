"""Semantic segmentation of ADE20K by text alone, with EVA-02-CLIP B/16 of CLIPSelf.

    python tools/train_net.py --config-file configs/distillation/clipself_eva02_b16_coco_patches.py
    python tools/train_net.py --eval-only \\
        --config-file configs/semantic/zero_shot_eva02_b16_ade20k_clipself_patches.py

The first command makes the tower; another is named by clip.pretrained=FILE. All else is as in
zero_shot_eva02_b16_ade20k.py.
"""

from .zero_shot_eva02_b16_ade20k import clip, dataloader, lr_multiplier, model, optimizer, train

clip.pretrained = "output/clipself_eva02_b16_coco_patches/tower.safetensors"
train.output_dir = "output/zero_shot_eva02_b16_ade20k_clipself_patches"
