"""CAT-Seg trained on COCO-Stuff with the untouched tower: EVA-02-CLIP L/14, 336 px.

Neither the paper nor CAT-Seg has this row: it goes with the EVA-02 rows of the paper's other tables.

    python datasets/prepare_coco_stuff.py
    python tools/train_net.py --config-file configs/semantic/cat_seg_eva02_l14_336_coco_stuff.py

Map and guidance are those of cat_seg_openai_l14_336_coco_stuff.py (336 px, 24 x 24; blocks 7 and 15).

All else, and the evaluation on other data sets, is as in cat_seg_openai_b16_coco_stuff.py.
"""

from ..common.semantic import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.update(name="EVA02-L-14-336", pretrained="merged2b_s6b_b61k")
shape.update(embed_dim=768, block_dim=1024)
model.update(size=336, blocks=[7, 15])
train.output_dir = "output/cat_seg_eva02_l14_336_coco_stuff"
