"""CLIPSelf on COCO photographs with image patches: OpenAI CLIP L/14, 336 px.

Paper: boxes 68.9 / 89.6, thing masks 70.0 / 88.0, stuff masks 35.5 / 71.5 (top-1 / top-5; before: 21.4 / 45.9,
28.3 / 52.0, 11.8 / 27.9).

| value               | paper                     | released code                  | here                     |
|---------------------|---------------------------|--------------------------------|--------------------------|
| student size        | -                         | 672 (author)                   | 672                      |
| letterbox padding   | -                         | read too                       | left out (model.skip_padding)     |
| teacher crop        | -                         | -                              | 336                      |
| trainable blocks    | -                         | last 6 or 12 (author)          | last 12                  |
| alpha               | not mentioned             | -                              | 0.95, as EVA-02's        |
| grid                | m, n in 1..6, independent | 24 pairs, ceil(m/2) <= n <= 2m | released; rule=paper     |
| regions an image    | -                         | 20 at most                     | 20 at most               |
| batch, steps        | 16, 6 epochs              | 2 on each of 8 GPUs, 44,358    | 16, 44,358               |
| gradients over GPUs | averaged                  | not averaged (see below)       | averaged                 |
| AdamW betas, eps    | -                         | 0.9, 0.98, 1e-6                | as released              |
| lr, weight decay    | 1e-5, 0.1                 | 1e-5, 0.1                      | 1e-5, 0.1                |
| warm-up, schedule   | -                         | 1,000 steps, cosine to 0       | 1,000 steps, cosine to 0 |
| precision           | -                         | fp16 autocast                  | bf16 autocast            |

Paper and release give no recipe for OpenAI's models; "author" is an answer in the release's issue 25.

In the release every GPU trains a copy of its own, because the loss bypasses DistributedDataParallel, and rank 0's copy
is saved: in effect one process with batches of 2 for 44,358 steps. To reproduce that, pass
dataloader.train.total_batch_size=2 with --num-gpus 1.
"""

from ..common.distillation import clip, dataloader, export, model
from ..common.optim import lr_multiplier, optimizer
from ..common.train import train

clip.update(name="ViT-L-14-336-quickgelu", pretrained="openai")
model.update(student_size=672, teacher_size=336, trainable_blocks=12, alpha=0.95)
optimizer.update(betas=(0.9, 0.98), eps=1e-6)
train.update(output_dir="output/clipself_openai_l14_336_coco_patches", max_iter=44_358, eval_period=7_393)
