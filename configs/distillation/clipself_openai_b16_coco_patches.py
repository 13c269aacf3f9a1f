"""CLIPSelf on COCO images with image patches: OpenAI CLIP B/16.

Table A2 of the paper, mAcc; there is no recipe for OpenAI's models, and the values of EVA-02 B/16 serve:

| top-1 / top-5 | boxes       | thing masks | stuff masks |
|---------------|-------------|-------------|-------------|
| before        | 29.3 / 51.6 | 33.5 / 56.0 | 25.9 / 50.9 |
| patches       | 67.4 / 88.4 | 69.4 / 88.5 | 43.4 / 76.9 |

    python tools/train_net.py --config-file configs/distillation/clipself_openai_b16_coco_patches.py

The values beside the paper's and the released code's, and the rows' overrides, are in ../common/distillation.py.
"""

from ..common.distillation import clip, correlations, dataloader, export, model, proposals
from ..common.optim import lr_multiplier, optimizer
from ..common.train import train

clip.update(name="ViT-B-16-quickgelu", pretrained="openai")
model.update(student_size=1024, alpha=0.7)
optimizer.update(betas=(0.9, 0.98), eps=1e-6)
train.update(max_iter=44_358, eval_period=7_393)
