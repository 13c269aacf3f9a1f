"""CAT-Seg trained on COCO-Stuff with the untouched tower: OpenAI CLIP B/16.

Table 5, mIoU: ADE-150 27.2, ADE-847 8.4, Pascal Context 59 57.5. They are those of CAT-Seg's first version, which had a
Swin transformer beside CLIP; the second, whose code this follows, reports 31.8, 12.0 and 57.5.

    python datasets/prepare_coco_stuff.py
    python tools/train_net.py --config-file configs/semantic/cat_seg_openai_b16_coco_stuff.py

It ends with the evaluation on ADE-150. On another data set, NAME:

    python tools/train_net.py --config-file configs/semantic/cat_seg_openai_b16_coco_stuff.py --eval-only \\
        train.init_checkpoint=output/cat_seg_openai_b16_coco_stuff/checkpoint_0080000.pth \\
        dataloader.test.dataset=NAME train.output_dir=output/cat_seg_openai_b16_NAME

| data set           | NAME                            |
|--------------------|---------------------------------|
| ADE-847            | ade20k_847_val_sem_seg          |
| Pascal Context 59  | pascal_context_59_val_sem_seg   |
| Pascal Context 459 | pascal_context_459_val_sem_seg  |
| COCO-Stuff         | coco_2017_val_stuff_all_sem_seg |

| value             | paper                        | released code                      | here                    |
|-------------------|------------------------------|------------------------------------|-------------------------|
| image, map        | 384, 24 x 24                 | 384, 24 x 24                       | as released             |
| dense map         | last block without attention | the same, residual of class token  | residual of the patch   |
| tower             | queries, values              | their weights, not positions       | as released             |
| text tower        | queries, values              | the same                           | frozen                  |
| prompt            | -                            | "A photo of a {} in the scene"     | as released             |
| names of classes  | -                            | COCO's ("wall-brick")              | English ("brick wall")  |
| aggregation       | 2 layers, 128 channels       | the same, 4 heads, window 12       | as released             |
| number of classes | -                            | filled up, or the best, to be 256  | the best 256            |
| image guidance    | the dense map                | not normalised                     | of unit length          |
| guidance, decoder | blocks 3, 7; 64, 32 channels | the same                           | as released             |
| unlabelled pixels | -                            | none of the classes                | no loss                 |
| crop              | 384                          | short side 384, mirror, SSD colour | as released             |
| batch, steps      | 4, 80,000                    | 4, 80,000                          | as released             |
| AdamW             | lr 2e-4, tower 2e-6          | the same, decay 1e-4, clip 0.01    | decay of matrices alone |
| schedule          | -                            | cosine, no warm-up                 | as released             |
| windows           | yes                          | 384 in 640 x 640, a third, and all | as released             |
| precision         | -                            | fp32                               | bf16 autocast           |
"""

from ..common.semantic import clip, dataloader, lr_multiplier, model, optimizer, shape, train

train.output_dir = "output/cat_seg_openai_b16_coco_stuff"
