"""The miniature's CLIP, trained from scratch on captioned views of OV-Shapes; its weights ship with the package.

    python tools/train_net.py --config-file configs/miniature/clip.py

| value       | here                                                           |
|-------------|----------------------------------------------------------------|
| image tower | plain ViT, 6 blocks x 192, patch 8, 64 px (OV-Shapes-ViT-8)    |
| text tower  | 3 blocks x 48, 20 tokens, open_clip's tokenizer                |
| batch       | 160: 96 compounds, 8 grounds, 56 scenes                        |
| AdamW       | lr 1e-3, betas 0.9, 0.98, weight decay 0.1, gradient norm <= 1 |
| schedule    | 200 steps of warm-up, then cosine to 0                         |
"""

from detectron2.config import LazyCall as L

from clipself_d2.data import build_train_loader
from clipself_d2.miniature import MODEL, CLIPExport, ImageTextCLIP, SceneCaptionMapper, caption_roles

from ..common.optim import lr_multiplier, optimizer
from ..common.train import train

model = L(ImageTextCLIP)(name=MODEL, pretrained=None)
export = L(CLIPExport)(name=MODEL)

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(caption_roles)(),
        mapper=L(SceneCaptionMapper)(),
        total_batch_size=160,
        seed="${train.seed}",
        num_workers=2,
    ),
)

optimizer.update(lr=1e-3, betas=(0.9, 0.98))
lr_multiplier.warmup_iters = 200
train.update(max_iter=1400, clip_grad_norm=1.0, log_period=50, checkpointer=dict(period=250))
