"""CAT-Seg trained on COCO-Stuff with the untouched tower: OpenAI CLIP L/14, 336 px.

Table 5, mIoU: ADE-150 31.5, ADE-847 10.8, Pascal Context 59 62.0, of CAT-Seg's first version; the second, whose code
this follows, reports 37.9, 16.0 and 63.3.

    python datasets/prepare_coco_stuff.py
    python tools/train_net.py --config-file configs/semantic/cat_seg_openai_l14_336_coco_stuff.py

| value      | paper        | released code                          | here        |
|------------|--------------|----------------------------------------|-------------|
| image, map | 336, 24 x 24 | crops and windows of 384, 336, 24 x 24 | as released |
| guidance   | blocks 7, 15 | the same                               | as released |

All else, and the evaluation on other data sets, is as in cat_seg_openai_b16_coco_stuff.py.
"""

from ..common.semantic import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.update(name="ViT-L-14-336-quickgelu", pretrained="openai")
shape.update(embed_dim=768, block_dim=1024)
model.update(size=336, blocks=[7, 15])
train.output_dir = "output/cat_seg_openai_l14_336_coco_stuff"
