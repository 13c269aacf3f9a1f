"""CLIPSelf on COCO images with image patches: EVA-02-CLIP L/14, 336 px.

Tables 2 and A2 of the paper, mAcc:

| top-1 / top-5 | boxes       | thing masks | stuff masks |
|---------------|-------------|-------------|-------------|
| before        | 56.7 / 78.0 | 59.0 / 79.8 | 20.8 / 41.9 |
| patches       | 77.1 / 93.3 | 78.7 / 93.7 | 44.4 / 78.3 |

    python tools/train_net.py --config-file configs/distillation/clipself_eva02_l14_336_coco_patches.py

The values beside the paper's and the released code's, and the rows' overrides, are in ../common/distillation.py.
"""

from ..common.distillation import clip, correlations, dataloader, export, model, proposals
from ..common.optim import lr_multiplier, optimizer
from ..common.train import train

clip.update(name="EVA02-L-14-336", pretrained="merged2b_s6b_b61k")
model.update(student_size=896, alpha=0.95)
train.update(max_iter=44_358, eval_period=7_393)
