"""F-ViT on OV-COCO: EVA-02-CLIP B/16.

Tables 3a, A3 and A5 of the paper, AP50:

| row                                       | novel | base | all  |
|-------------------------------------------|-------|------|------|
| untouched tower                           | 17.5  | 41.0 | 34.9 |
| CLIPSelf, patches                         | 33.6  | 54.2 | 48.8 |
| CLIPSelf, proposals                       | 37.6  | 54.9 | 50.4 |
| patches, simple pyramid on the last block | 23.1  | 46.6 | 40.4 |
| patches, FPN on the last block            | 26.5  | 47.0 | 41.6 |
| patches, the tower trains too, lr x 0.01  | 31.1  | 56.6 | 49.9 |
| patches, the tower trains too, lr x 0.1   | 21.8  | 58.6 | 48.8 |

    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_ovcoco.py
    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_ovcoco.py --eval-only --resume
    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_ovcoco.py \\
        clip.pretrained=output/clipself_eva02_b16_coco_patches/tower.safetensors \\
        train.output_dir=output/fvit_eva02_b16_ovcoco_clipself_patches

The designs of table A3 add to the last command (SimplePyramid has LN; blocks are counted from 0):

| row               | overrides                                                                                  |
|-------------------|--------------------------------------------------------------------------------------------|
| simple pyramid    | model.backbone.pyramid='${simple_pyramid}' model.backbone.blocks=[11]                      |
| FPN on last block | model.backbone.blocks=[11,11,11,11]                                                        |
| tower trains too  | model.backbone.trainable=true 'optimizer.params.lr_factors={backbone.trained_tower: 0.01}' |

The values beside the paper's and the released code's, and the towers, are in ../common/detection.py.
"""

from ..common.detection import clip, dataloader, model, shape, simple_pyramid
from ..common.detection_optim import lr_multiplier, optimizer, train

clip.update(name="EVA02-B-16", pretrained="merged2b_s8b_b131k")
model.size = 640
train.update(max_iter=5_052, eval_period=1_684, checkpointer=dict(period=1_684))
