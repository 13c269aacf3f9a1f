"""CAT-Seg trained on COCO-Stuff: OpenAI CLIP B/16.

Table 5 of the paper, mIoU (the second version of CAT-Seg reports 31.8, 12.0 and 57.5):

| tower     | ADE-150    | ADE-847 | Pascal Context 59 |
|-----------|------------|---------|-------------------|
| untouched | 27.2       | 8.4     | 57.5              |
| CLIPSelf  | 29.0: +1.8 |         |                   |

    python datasets/prepare_coco_stuff.py
    python tools/train_net.py --config-file configs/semantic/cat_seg_openai_b16_coco_stuff.py
    python tools/train_net.py --config-file configs/semantic/cat_seg_openai_b16_coco_stuff.py \\
        clip.pretrained=output/clipself_openai_b16_coco_patches/tower.safetensors \\
        train.output_dir=output/cat_seg_openai_b16_coco_stuff_clipself_patches

A run ends with the evaluation on ADE-150. On another data set, NAME:

    python tools/train_net.py --config-file configs/semantic/cat_seg_openai_b16_coco_stuff.py --eval-only \\
        train.init_checkpoint=output/cat_seg_openai_b16_coco_stuff/checkpoint_0080000.pth \\
        dataloader.test.dataset=NAME train.output_dir=output/cat_seg_openai_b16_NAME

| data set           | NAME                           |
|--------------------|--------------------------------|
| ADE-847            | ade20k_847_val_sem_seg         |
| Pascal Context 59  | pascal_context_59_val_sem_seg  |
| Pascal Context 459 | pascal_context_459_val_sem_seg |
| COCO-Stuff         | coco_stuff_171_val_sem_seg     |

The values beside the paper's and the released code's, and the rows of other towers, are in ../common/semantic.py.
"""

from ..common.semantic import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.update(name="ViT-B-16-quickgelu", pretrained="openai")
