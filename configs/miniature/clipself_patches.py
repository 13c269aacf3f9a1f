"""CLIPSelf with image patches on OV-Shapes, from the shipped CLIP: the miniature of the paper's Table 2.

    python tools/train_net.py --config-file configs/miniature/clipself_patches.py

| value                   | paper, B/16          | here                                        |
|-------------------------|----------------------|---------------------------------------------|
| student / teacher size  | 1024 / 224           | 128 / 64                                    |
| trainable blocks        | all 12               | all 6                                       |
| grid                    | m, n in 1..6         | the released pairs up to 6, 20 regions      |
| batch, steps            | 16, 44k              | 8, 850                                      |
| lr, weight decay        | 1e-5, 0.1            | 1e-3, 0.1: a small tower learns in few steps |
| alpha                   | 0.7 (released code)  | 0.95                                        |
"""

from clipself_d2.miniature import MODEL, TEMPLATES, WEIGHTS

from ..common.distillation import clip, dataloader, export, model
from ..common.optim import lr_multiplier, optimizer
from ..common.train import train

clip.update(name=MODEL, pretrained=WEIGHTS)
model.update(student_size=128, teacher_size=64, trainable_blocks=6, alpha=0.95)
dataloader.train.update(dataset="ov_shapes_train_images", total_batch_size=8, num_workers=1)
dataloader.test.update(dataset="ov_shapes_val_panoptic_regions", num_workers=0, batch_size=8)
dataloader.evaluator.text.templates = list(TEMPLATES)
optimizer.lr = 1e-3
lr_multiplier.warmup_iters = 50
train.update(output_dir="output/miniature_clipself_patches", max_iter=850, log_period=50, checkpointer=dict(period=425))
