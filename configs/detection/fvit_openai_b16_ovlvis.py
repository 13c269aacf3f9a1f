"""F-ViT on OV-LVIS: OpenAI CLIP B/16, which is not in the paper.

    python tools/train_net.py --config-file configs/detection/fvit_openai_b16_ovlvis.py
    python tools/train_net.py --config-file configs/detection/fvit_openai_b16_ovlvis.py \\
        clip.pretrained=output/clipself_openai_b16_lvis_patches/tower.safetensors

| value                 | paper | released code              | here                   |
|-----------------------|-------|----------------------------|------------------------|
| pixel statistics      | -     | CLIP's (CLIM)              | CLIP's                 |
| background            | -     | learned (CLIM), weight -   | learned, weight 0.9    |
| alpha, beta, CLIP's T | -     | 0.35, 0.65, - (CLIM)       | 0.35, 0.65, 50         |
| AdamW                 | -     | lr 4e-4, decay 0.05 (CLIM) | lr 4e-4, decay 0.05    |
| batch, steps          | -     | 128 (CLIM)                 | 128, 37,584: 48 epochs |

"CLIM" is the code that CLIPSelf's authors point to for OpenAI's models. All else is as in fvit_eva02_b16_ovlvis.py.
"""

from .fvit_eva02_b16_ovlvis import clip, dataloader, lr_multiplier, model, optimizer, shape, train

clip.update(name="ViT-B-16-quickgelu", pretrained="openai")
model.pixel_stats = "clip"
model.roi_heads.update(alpha=0.35, beta=0.65)
model.roi_heads.classifier.learned_background = "${shape.embed_dim}"
dataloader.train.total_batch_size = 128
optimizer.lr = 4e-4
optimizer.params.weight_decay = 0.05
train.update(max_iter=37_584, eval_period=9_396, checkpointer=dict(period=783))
