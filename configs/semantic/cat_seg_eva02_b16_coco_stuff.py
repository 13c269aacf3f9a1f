"""CAT-Seg trained on COCO-Stuff with the untouched tower: EVA-02-CLIP B/16.

Neither the paper nor CAT-Seg has this row: it goes with the EVA-02 rows of the paper's other tables.

    python datasets/prepare_coco_stuff.py
    python tools/train_net.py --config-file configs/semantic/cat_seg_eva02_b16_coco_stuff.py

All else, and the evaluation on other data sets, is as in cat_seg_openai_b16_coco_stuff.py.
"""

from ..common.semantic import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.update(name="EVA02-B-16", pretrained="merged2b_s8b_b131k")
train.output_dir = "output/cat_seg_eva02_b16_coco_stuff"
