"""CLIPSelf on COCO images with image patches: EVA-02-CLIP B/16.

Tables 1, 2 and A2 of the paper, mAcc:

| top-1 / top-5 | boxes       | thing masks | stuff masks |
|---------------|-------------|-------------|-------------|
| before        | 18.2 / 33.2 | 20.6 / 36.5 | 18.4 / 43.5 |
| patches       | 72.1 / 91.3 | 74.4 / 91.8 | 46.8 / 80.2 |
| proposals     | 74.0 / 92.6 | 76.3 / 92.8 | 36.8 / 75.0 |

    python tools/train_net.py --config-file configs/distillation/clipself_eva02_b16_coco_patches.py
    python tools/train_net.py --config-file configs/distillation/clipself_eva02_b16_coco_patches.py \\
        dataloader.train.mapper.regions='${proposals}' train.output_dir=output/clipself_eva02_b16_coco_proposals
    python tools/train_net.py --config-file configs/distillation/clipself_eva02_b16_coco_patches.py \\
        dataloader.train.dataset=lvis_v1_train_images train.max_iter=37566 train.eval_period=6261 \\
        train.output_dir=output/clipself_eva02_b16_lvis_patches

The last is the backbone of the paper's OV-LVIS detector.

The values beside the paper's and the released code's, and the rows' overrides, are in ../common/distillation.py.
"""

from ..common.distillation import clip, correlations, dataloader, export, model, proposals
from ..common.optim import lr_multiplier, optimizer
from ..common.train import train

clip.update(name="EVA02-B-16", pretrained="merged2b_s8b_b131k")
model.update(student_size=1024, alpha=0.7)
train.update(max_iter=44_358, eval_period=7_393)
