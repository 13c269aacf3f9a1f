"""CAT-Seg on OV-Shapes, on the shipped CLIP: the miniature of the paper's Table 5.

    python tools/train_net.py --config-file configs/miniature/cat_seg.py

and on the tower of a distillation:

    python tools/train_net.py --config-file configs/miniature/cat_seg.py \\
        train.output_dir=output/cat_seg_patches \\
        clip.pretrained=output/clipself_patches/tower.safetensors

| value                | released, B/16                | here                                           |
|----------------------|-------------------------------|------------------------------------------------|
| image, map           | 384, 24 x 24                  | 128, 16 x 16                                   |
| aggregation          | 2 layers, 128 channels        | 1 layer, 32 channels                           |
| heads, window        | 4, 12                         | 1, 8                                           |
| guiding blocks       | 3, 7 of 12                    | 1, 3 of 6                                      |
| decoder              | 64, 32 channels               | 16, 8                                          |
| dense map            | residual of the class token   | of the patch                                   |
| list of classes      | filled up to 256              | not filled up                                  |
| classes seen, novel  | 171, those of other data sets | 70, 34                                         |
| tower                | queries, values; lr x 0.01    | the same                                       |
| windows              | 2 x 2 of 384 in 640, and all  | none                                           |
| crop, mirror, colors | yes                           | no: colors and sides are what the classes tell |
| classes of an image  | all, in training too          | in training its own and others, 24 together    |
| optimizer, lr        | AdamW, 2e-4 cosine            | Muon, 8e-3 cosine                              |
| batch, steps         | 4, 80,000                     | 4, 300, 20 of them warm-up                     |
| gradient clipped to  | 0.01                          | 1                                              |

Without the aggregation, by text alone, the same tower is evaluated by configs/miniature/zero_shot_semantic.py.

A trained one ships: semantic_segmenter.py.
"""

from clipself_d2.miniature import MODEL, TEMPLATES, WEIGHTS

from ..common.optim import muon as optimizer
from ..common.semantic import clip, dataloader, lr_multiplier, model, shape, train

clip.update(name=MODEL, pretrained=WEIGHTS)
shape.update(embed_dim=128, block_dim=192)
model.vocabulary.text.templates = list(TEMPLATES)
model.aggregator.update(channels=32, guidance_channels=32, layers=1, heads=1, window=8, padded_classes=0)
model.decoder.update(dims=[16, 8], guidance_dims=[32, 16], guidance_channels=[8, 4])
model.update(size=128, blocks=[1, 3], dense_mode="no_attn", train_classes=24, window=0)
dataloader.train.update(dataset="ov_shapes_train_semantic", total_batch_size=4, num_workers=1)
dataloader.train.mapper.update(size=128, flip=0.0, colors=False)
dataloader.test.update(dataset="ov_shapes_val_semantic", num_workers=0, batch_size=5)
dataloader.evaluator.novel_classes = None  # the data set's own
optimizer.params.update(weight_decay=1e-4, lr_factors=dict(trained_tower=0.01))
optimizer.lr = 8e-3
lr_multiplier.warmup_iters = 20
train.update(
    max_iter=300,
    log_period=25,
    clip_grad_norm=1.0,
    checkpointer=dict(period=150),
)
