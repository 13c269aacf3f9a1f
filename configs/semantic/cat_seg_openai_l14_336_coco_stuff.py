"""CAT-Seg trained on COCO-Stuff: OpenAI CLIP L/14, 336 px.

Table 5 of the paper, mIoU (the second version of CAT-Seg reports 37.9, 16.0 and 63.3):

| tower     | ADE-150    | ADE-847 | Pascal Context 59 |
|-----------|------------|---------|-------------------|
| untouched | 31.5       | 10.8    | 62.0              |
| CLIPSelf  | 34.5: +3.0 | 12.4    | 62.3              |

    python tools/train_net.py --config-file configs/semantic/cat_seg_openai_l14_336_coco_stuff.py
    python tools/train_net.py --config-file configs/semantic/cat_seg_openai_l14_336_coco_stuff.py \\
        clip.pretrained=output/clipself_openai_l14_336_coco_patches/tower.safetensors \\
        train.output_dir=output/cat_seg_openai_l14_336_coco_stuff_clipself_patches

All else is as in cat_seg_openai_b16_coco_stuff.py.
"""

from ..common.semantic import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.update(name="ViT-L-14-336-quickgelu", pretrained="openai")
shape.update(embed_dim=768, block_dim=1024)
model.update(size=336, blocks=[7, 15])
