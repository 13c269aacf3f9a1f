"""CLIPSelf on COCO photographs with image patches: EVA-02-CLIP B/16.

Tables 1 and 2: boxes 72.1 / 91.3, thing masks 74.4 / 91.8, stuff masks 46.8 / 80.2 (top-1 / top-5; before: 18.2 / 33.2,
20.6 / 36.5, 18.4 / 43.5).

| value               | paper                     | released code                  | here                     |
|---------------------|---------------------------|--------------------------------|--------------------------|
| student size        | 1024                      | 1024                           | 1024                     |
| letterbox padding   | -                         | read too                       | left out (model.skip_padding)     |
| teacher crop        | 224                       | 224                            | 224                      |
| trainable blocks    | all 12                    | all 12                         | all 12                   |
| alpha               | not mentioned             | 0.7                            | 0.7                      |
| grid                | m, n in 1..6, independent | 24 pairs, ceil(m/2) <= n <= 2m | released; rule=paper     |
| regions an image    | -                         | 20 at most                     | 20 at most               |
| batch, steps        | 16, 6 epochs              | 2 on each of 8 GPUs, 44,358    | 16, 44,358               |
| gradients over GPUs | averaged                  | not averaged (see below)       | averaged                 |
| AdamW betas, eps    | -                         | 0.9, 0.999, 1e-8               | as released              |
| lr, weight decay    | 1e-5, 0.1                 | 1e-5, 0.1                      | 1e-5, 0.1                |
| warm-up, schedule   | -                         | 1,000 steps, cosine to 0       | 1,000 steps, cosine to 0 |
| precision           | -                         | fp16 autocast                  | bf16 autocast            |

In the release every GPU trains a copy of its own, because the loss bypasses DistributedDataParallel, and rank 0's copy
is saved: in effect one process with batches of 2 for 44,358 steps. To reproduce that, pass
dataloader.train.total_batch_size=2 with --num-gpus 1.
"""

from ..common.distillation import clip, dataloader, export, model
from ..common.optim import lr_multiplier, optimizer
from ..common.train import train

clip.update(name="EVA02-B-16", pretrained="merged2b_s8b_b131k")
model.update(student_size=1024, teacher_size=224, trainable_blocks=12, alpha=0.7)
train.update(output_dir="output/clipself_eva02_b16_coco_patches", max_iter=44_358, eval_period=7_393)
