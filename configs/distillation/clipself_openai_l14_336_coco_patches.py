"""CLIPSelf on COCO images with image patches: OpenAI CLIP L/14, 336 px.

Table A2 of the paper, mAcc; there is no recipe for OpenAI's models but the author's answer:

| top-1 / top-5 | boxes       | thing masks | stuff masks |
|---------------|-------------|-------------|-------------|
| before        | 21.4 / 45.9 | 28.3 / 52.0 | 11.8 / 27.9 |
| patches       | 68.9 / 89.6 | 70.0 / 88.0 | 35.5 / 71.5 |

    python tools/train_net.py --config-file configs/distillation/clipself_openai_l14_336_coco_patches.py

The values beside the paper's and the released code's, and the rows' overrides, are in ../common/distillation.py.
"""

from ..common.distillation import clip, correlations, dataloader, export, model, proposals
from ..common.optim import lr_multiplier, optimizer
from ..common.train import train

clip.update(name="ViT-L-14-336-quickgelu", pretrained="openai")
model.update(student_size=672, trainable_blocks=12, alpha=0.95)
optimizer.update(betas=(0.9, 0.98), eps=1e-6)
train.update(max_iter=44_358, eval_period=7_393)
