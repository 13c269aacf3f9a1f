"""CAT-Seg on COCO-Stuff: the released code's model, data flow and optimizer, with B/16's shapes.

| value             | paper                        | released code                      | here                    |
|-------------------|------------------------------|------------------------------------|-------------------------|
| image, map, B/16  | 384, 24 x 24                 | 384, 24 x 24                       | as released             |
| image, map, L/14  | 336, 24 x 24                 | crops of 384 resized to 336        | as released             |
| dense map         | last block without attention | the same, residual of class token  | as released             |
| tower             | queries, values              | their weights, not positions       | as released             |
| text tower        | queries, values              | the same                           | frozen                  |
| prompt            | -                            | "A photo of a {} in the scene"     | as released             |
| names of classes  | -                            | COCO's ("wall-brick")              | English ("brick wall")  |
| aggregation       | 2 layers, 128 channels       | the same, 4 heads, window 12       | as released             |
| number of classes | -                            | filled up, or the best, to be 256  | as released             |
| image guidance    | the dense map                | not normalized                     | of unit length          |
| guiding blocks    | 3, 7; L/14 7, 15             | the same                           | as released             |
| decoder           | 64, 32 channels              | the same                           | as released             |
| unlabeled pixels  | -                            | none of the classes                | no loss                 |
| crop              | 384                          | short side 384, mirror, SSD color  | as released             |
| batch, steps      | 4, 80,000                    | 4, 80,000                          | as released             |
| AdamW             | lr 2e-4, tower 2e-6          | the same, clip 0.01                | as released             |
| weight decay      | -                            | 1e-4 on all but the norms          | on matrices alone       |
| schedule          | -                            | cosine, no warm-up                 | as released             |
| windows           | yes                          | 384 in 640 x 640, a third, and all | as released             |
| precision         | -                            | fp32                               | bf16 autocast           |

CLIPSelf's own code has no CAT-Seg. The paper's numbers are those of CAT-Seg's first version, which had a Swin
transformer beside CLIP; ours follows the second.

| row                   | overrides                                                                              |
|-----------------------|----------------------------------------------------------------------------------------|
| the tower of CLIPSelf | clip.pretrained=output/clipself_openai_b16_coco_patches/tower.safetensors (or l14_336) |
| EVA-02-CLIP B/16      | clip.name=EVA02-B-16 clip.pretrained=merged2b_s8b_b131k, with OpenAI B/16's file       |
| EVA-02-CLIP L/14      | clip.name=EVA02-L-14-336 clip.pretrained=merged2b_s6b_b61k, with OpenAI L/14's file    |

EVA-02's rows are neither in the paper nor in CAT-Seg: they go with the EVA-02 rows of the paper's other tables.
"""

from detectron2.config import LazyCall as L
from torch.optim import AdamW

from clipself_d2.clip import build_image_tower, build_text_tower
from clipself_d2.data import PanopticMapper, SemanticMapper, build_test_loader, build_train_loader
from clipself_d2.data.vocabulary import panoptic_vocabulary, unseen_classes
from clipself_d2.engine.config import on_device
from clipself_d2.engine.optim import param_groups, warmup_cosine
from clipself_d2.evaluation import OpenVocabularyPanopticEvaluator
from clipself_d2.semantic import CATSeg, CostAggregator, UpsamplingDecoder
from clipself_d2.vocabulary import TextClassifier

from .train import train

clip = dict(name="ViT-B-16-quickgelu", pretrained="openai")

# Length of the embeddings, channels of the tower's blocks.
shape = dict(embed_dim=512, block_dim=768)

model = L(CATSeg)(
    tower=L(build_image_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
    vocabulary=L(panoptic_vocabulary)(
        dataset="${dataloader.train.dataset}",
        text=L(TextClassifier)(
            tower=L(on_device)(
                module=L(build_text_tower)(name="${clip.name}", pretrained="${clip.pretrained}"),
                device="${train.device}",
            ),
            templates=["A photo of a {} in the scene"],
        ),
        synonyms=False,
    ),
    test_vocabulary=L(panoptic_vocabulary)(
        dataset="${dataloader.test.dataset}", text="${model.vocabulary.text}", synonyms="${model.vocabulary.synonyms}"
    ),
    aggregator=L(CostAggregator)(
        embed_dim="${shape.embed_dim}",
        channels=128,
        guidance_channels=128,
        layers=2,
        heads=4,
        window=12,
        pooling=2,
        padded_classes="${model.max_classes}",
    ),
    decoder=L(UpsamplingDecoder)(
        block_dim="${shape.block_dim}",
        channels="${model.aggregator.channels}",
        dims=[64, 32],
        guidance_dims=[256, 128],
        guidance_channels=[32, 16],
    ),
    size=384,
    blocks=[3, 7],
    trainable=True,
    dense_mode="class_residual",
    max_classes=256,
    window=384,
    image_size=640,
    overlap=1 / 3,
    labels_only=True,
)

dataloader = dict(
    train=L(build_train_loader)(
        dataset="coco_stuff_171_train_sem_seg",
        mapper=L(SemanticMapper)(size=384, flip=0.5, colors=True),
        total_batch_size=4,
        seed="${train.seed}",
        num_workers=4,
    ),
    test=L(build_test_loader)(dataset="ade20k_150_val_sem_seg", mapper=L(PanopticMapper)(), num_workers=4),
    evaluator=L(OpenVocabularyPanopticEvaluator)(
        dataset_name="${dataloader.test.dataset}",
        output_dir="${train.output_dir}",
        novel_classes=L(unseen_classes)(dataset="${dataloader.test.dataset}", train="${dataloader.train.dataset}"),
    ),
)

optimizer = L(AdamW)(
    params=L(param_groups)(weight_decay=1e-4, lr="${optimizer.lr}", lr_factors=dict(trained_tower=0.01)),
    lr=2e-4,
    betas=(0.9, 0.999),
    eps=1e-8,
    fused=True,
)

lr_multiplier = L(warmup_cosine)(max_iter="${train.max_iter}", warmup_iters=0)

train.update(max_iter=80_000, clip_grad_norm=0.01, checkpointer=dict(period=5_000, max_to_keep=2))
