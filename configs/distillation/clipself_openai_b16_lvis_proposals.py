"""CLIPSelf on LVIS v1 photographs with region proposals: OpenAI CLIP B/16, which is not in the paper.

Neither paper nor release has LVIS with proposals. Make a COCO-format json of boxes at
$DETECTRON2_DATASETS/lvis/lvis_proposals.json, or name another: dataloader.train.mapper.regions.json_file=FILE.

| value        | paper | released code | here                          |
|--------------|-------|---------------|-------------------------------|
| photographs  | -     | -             | all 100,170 of the train json |
| batch, steps | -     | -             | 16, 37,566                    |

All else, and how to train as the release did, is as in clipself_openai_b16_coco_proposals.py.
"""

from .clipself_openai_b16_coco_proposals import clip, dataloader, export, lr_multiplier, model, optimizer, train

dataloader.train.dataset = "lvis_v1_train_images"
dataloader.train.mapper.regions.json_file = "${oc.env:DETECTRON2_DATASETS,datasets}/lvis/lvis_proposals.json"
train.update(output_dir="output/clipself_openai_b16_lvis_proposals", max_iter=37_566, eval_period=6_261)
