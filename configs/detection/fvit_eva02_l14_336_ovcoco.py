"""F-ViT on OV-COCO: EVA-02-CLIP L/14, 336 px.

Tables 3a and A5 of the paper, AP50:

| row                 | novel | base | all  |
|---------------------|-------|------|------|
| untouched tower     | 24.7  | 53.6 | 46.0 |
| CLIPSelf, patches   | 38.4  | 60.6 | 54.8 |
| CLIPSelf, proposals | 44.3  | 64.1 | 59.0 |

    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_ovcoco.py
    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_ovcoco.py \\
        clip.pretrained=output/clipself_eva02_l14_336_coco_patches/tower.safetensors \\
        train.output_dir=output/fvit_eva02_l14_336_ovcoco_clipself_patches

The values beside the paper's and the released code's, and the towers, are in ../common/detection.py.
"""

from ..common.detection import clip, dataloader, model, shape, simple_pyramid
from ..common.detection import large_shape as _large_shape
from ..common.detection_optim import lr_multiplier, optimizer, train

clip.update(name="EVA02-L-14-336", pretrained="merged2b_s6b_b61k")
shape.update(_large_shape)
model.size = 896
train.update(max_iter=5_052, eval_period=1_684, checkpointer=dict(period=1_684))
