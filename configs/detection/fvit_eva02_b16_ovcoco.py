"""F-ViT on OV-COCO with the untouched tower: EVA-02-CLIP B/16.

Tables 3a and A5, AP50: novel 17.5, base 41.0, all 34.9. On a tower of CLIPSelf: fvit_eva02_b16_ovcoco_clipself_*.py.

    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_ovcoco.py
    python tools/train_net.py --config-file configs/detection/fvit_eva02_b16_ovcoco.py --eval-only --resume

| value                 | paper         | released code                   | here                        |
|-----------------------|---------------|---------------------------------|-----------------------------|
| input size            | -             | 640                             | as released                 |
| normalisation         | -             | ImageNet's                      | ImageNet's, as released     |
| blocks                | -             | 3, 5, 7, 11                     | as released                 |
| up-sampling           | interpolation | transposed convolutions         | as released                 |
| strides               | -             | 4, 8, 16, 32; RPN 64            | as released                 |
| anchors               | -             | 8 strides; 1/2, 1, 2            | as released                 |
| proposals             | -             | 1,000 of 2,000 a level, NMS 0.7 | as released                 |
| regions an image      | -             | 512, 1/4 of them objects        | as released                 |
| temperature           | -             | learned, from 50                | as released                 |
| background            | -             | text, loss weight 0.6           | as released                 |
| alpha, beta, CLIP's T | -             | 0.1, 0.8, 75                    | as released                 |
| detections            | -             | score > 0.01, NMS 0.4, 100      | as released                 |
| jitter                | -             | 0.1 .. 2.0, crop, flip 0.5      | as released                 |
| batch, steps          | -             | 64, 3 epochs                    | 64, 5,052 of 107,761 images |
| AdamW                 | -             | lr 1e-4, decay 0.1, clip 1.0    | as released                 |
| schedule              | -             | 250 steps of warm-up, constant  | as released                 |
| precision             | -             | fp16 autocast                   | bf16 autocast               |

The released code's authors find the best novel AP often after the second epoch: results of every epoch are in the log.
"""

from ..common.detection import clip, dataloader, model, shape
from ..common.detection_optim import lr_multiplier, optimizer, train

clip.update(name="EVA02-B-16", pretrained="merged2b_s8b_b131k")
model.size = 640
model.roi_heads.update(alpha=0.1, beta=0.8, clip_temperature=75.0)
train.update(
    output_dir="output/fvit_eva02_b16_ovcoco", max_iter=5_052, eval_period=1_684, checkpointer=dict(period=1_684)
)
