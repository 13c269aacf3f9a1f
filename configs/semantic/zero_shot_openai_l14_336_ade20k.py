"""Semantic segmentation of ADE20K by text alone, with OpenAI CLIP L/14, 336 px.

    python tools/train_net.py --config-file configs/semantic/zero_shot_openai_l14_336_ade20k.py --eval-only

| other                       | overrides                                             |
|-----------------------------|-------------------------------------------------------|
| ADE20K's 847 classes        | dataloader.test.dataset=ade20k_847_val_sem_seg        |
| Pascal Context's 59         | dataloader.test.dataset=pascal_context_59_val_sem_seg |
| a map twice as fine         | model.finer=2                                         |
| MaskCLIP's prompt denoising | model.denoise=0.5                                     |
| PACL's score of the image   | model.scoring=patch_weighted                          |

| value      | MaskCLIP       | here                           |
|------------|----------------|--------------------------------|
| image size | short side 512 | long side 672, its CLIPSelf's  |
| resized    | scores         | probabilities                  |
"""

from ..common.train import train
from ..common.zero_shot_semantic import clip, dataloader, lr_multiplier, model, optimizer

clip.name = "ViT-L-14-336-quickgelu"
model.size = 672
train.output_dir = "output/zero_shot_openai_l14_336_ade20k"
