"""CLIPSelf on COCO photographs with image patches: EVA-02-CLIP L/14, 336 px.

Table 2: boxes 77.1 / 93.3, thing masks 78.7 / 93.7, stuff masks 44.4 / 78.3 (top-1 / top-5; before: 56.7 / 78.0,
59.0 / 79.8, 20.8 / 41.9).

| value               | paper                     | released code                  | here                     |
|---------------------|---------------------------|--------------------------------|--------------------------|
| student size        | 896                       | 896                            | 896                      |
| letterbox padding   | -                         | read too                       | left out (model.skip_padding)     |
| teacher crop        | 336                       | 336                            | 336                      |
| trainable blocks    | all 24                    | all 24                         | all 24                   |
| alpha               | not mentioned             | 0.95                           | 0.95                     |
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

clip.update(name="EVA02-L-14-336", pretrained="merged2b_s6b_b61k")
model.update(student_size=896, teacher_size=336, trainable_blocks=24, alpha=0.95)
train.update(output_dir="output/clipself_eva02_l14_336_coco_patches", max_iter=44_358, eval_period=7_393)
