"""Semantic segmentation of ADE20K by text alone, with OpenAI CLIP B/16.

    python tools/train_net.py --config-file configs/semantic/zero_shot_openai_b16_ade20k.py --eval-only
    python tools/train_net.py --config-file configs/semantic/zero_shot_openai_b16_ade20k.py --eval-only \\
        clip.pretrained=output/clipself_openai_b16_coco_patches/tower.safetensors

| other                       | overrides                                                                 |
|-----------------------------|---------------------------------------------------------------------------|
| OpenAI CLIP L/14, 336 px    | clip.name=ViT-L-14-336-quickgelu model.size=672                           |
| EVA-02-CLIP B/16            | clip.name=EVA02-B-16 clip.pretrained=merged2b_s8b_b131k                   |
| EVA-02-CLIP L/14, 336 px    | clip.name=EVA02-L-14-336 clip.pretrained=merged2b_s6b_b61k model.size=896 |
| the tower of CLIPSelf       | clip.pretrained=output/clipself_TOWER_coco_patches/tower.safetensors      |
| ADE20K's 847 classes        | dataloader.test.dataset=ade20k_847_val_sem_seg                            |
| Pascal Context's 59         | dataloader.test.dataset=pascal_context_59_val_sem_seg                     |
| a map twice as fine         | model.finer=2                                                             |
| MaskCLIP's prompt denoising | model.denoise=0.5                                                         |
| PACL's score of the image   | model.scoring=patch_weighted                                              |

| value      | MaskCLIP       | here                                                                  |
|------------|----------------|-----------------------------------------------------------------------|
| image size | short side 512 | long side: that of the tower's CLIPSelf (1024; 672 for OpenAI's L/14) |
| resized    | scores         | probabilities                                                         |
"""

from ..common.train import train
from ..common.zero_shot_semantic import clip, dataloader, lr_multiplier, model, optimizer
