"""F-ViT on OV-COCO with the untouched tower: EVA-02-CLIP L/14, 336 px.

Tables 3a and A5, AP50: novel 24.7, base 53.6, all 46.0.

    python tools/train_net.py --config-file configs/detection/fvit_eva02_l14_336_ovcoco.py

| value                 | paper         | released code                   | here                        |
|-----------------------|---------------|---------------------------------|-----------------------------|
| input size            | -             | 896                             | as released                 |
| normalisation         | -             | ImageNet's                      | ImageNet's, as released     |
| blocks                | -             | 6, 10, 14, 23                   | as released                 |
| up-sampling           | interpolation | transposed convolutions         | as released                 |
| strides               | -             | 3.5, 7, 14, 28; RPN 56          | as released                 |
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
"""

from ..common.detection import clip, dataloader, model, shape
from ..common.detection_optim import lr_multiplier, optimizer, train

clip.update(name="EVA02-L-14-336", pretrained="merged2b_s6b_b61k")
shape.update(blocks=[6, 10, 14, 23], block_dim=1024, embed_dim=768, stride=14)
shape.update(strides=[3.5, 7, 14, 28, 56], region_strides=[3.5, 7, 14, 28])
model.size = 896
model.roi_heads.update(alpha=0.1, beta=0.8, clip_temperature=75.0)
train.update(
    output_dir="output/fvit_eva02_l14_336_ovcoco", max_iter=5_052, eval_period=1_684, checkpointer=dict(period=1_684)
)
