"""A region proposal network on the base classes of OV-COCO: what the paper's proposals come from.

    cd "${DETECTRON2_DATASETS:-datasets}" && wget https://download.pytorch.org/models/resnet50-0676ba61.pth && cd -
    python tools/train_net.py --config-file configs/detection/rpn_r50_fpn_ovcoco.py --num-gpus 8
    python tools/make_proposals.py --config-file configs/detection/rpn_r50_fpn_ovcoco.py \\
        --dataset coco_2017_train_images --output datasets/coco/coco_proposals.json

The paper says no more of it; these are the values of Detectron2's RPN R50-FPN 1x, with torchvision's ImageNet weights.

| value             | here                                                                      |
|-------------------|---------------------------------------------------------------------------|
| data              | boxes of the 48 base classes, classes ignored; recall on base and novel   |
| backbone          | ResNet-50, FrozenBN, stem and first stage frozen; FPN of 256, p2..p6      |
| RPN               | 3 x 3 conv; anchors 32..512, ratios 0.5, 1, 2; 256 samples, NMS 0.7, 2000 |
| image, training   | long side 853..1066 (short 640..800 at 4:3), mirrored half the time       |
| image, evaluation | short side 800, long side at most 1333                                    |
| SGD               | batch 16, lr 0.02, momentum 0.9, weight decay 1e-4, none on norms         |
| schedule          | 90k steps, warm-up of 1000 from 0.001, lr / 10 after 60k and 80k          |
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch.optim import SGD

from clipself_d2.data import DetectionMapper, ImageMapper, build_test_loader, build_train_loader
from clipself_d2.detection.proposal_network import RegionProposalNetwork, resnet50
from clipself_d2.evaluation import ProposalEvaluator

from ..common.train import train

model = L(RegionProposalNetwork)(
    backbone=L(FPN)(
        bottom_up=L(resnet50)(
            # Never downloaded; null for random weights.
            weights="${oc.env:DETECTRON2_DATASETS,datasets}/resnet50-0676ba61.pth",
            norm="FrozenBN",
            freeze_at=2,
        ),
        in_features=["res2", "res3", "res4", "res5"],
        out_channels=256,
        top_block=L(LastLevelMaxPool)(),
    ),
    rpn=L(RPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels=256, num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32], [64], [128], [256], [512]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=[2000, 1000],
        post_nms_topk=[1000, 2000],
        nms_thresh=0.7,
    ),
    short_edge=800,
    long_edge=1333,
)

dataloader = dict(
    train=L(build_train_loader)(
        dataset="ov_coco_train",
        mapper=L(DetectionMapper)(size=1066, scale_range=[0.8, 1.0], flip=0.5, masks=False, antialias=True),
        total_batch_size=16,
        seed="${train.seed}",
        num_workers=4,
    ),
    test=L(build_test_loader)(dataset="ov_coco_val", mapper=L(ImageMapper)(), num_workers=4),
    evaluator=L(ProposalEvaluator)(dataset_name="${dataloader.test.dataset}"),
)

optimizer = L(SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0), lr=0.02, momentum=0.9, weight_decay=1e-4
)

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[60000, 80000, 90000]),
    warmup_factor=0.001,
    warmup_length=1000 / 90000,
    warmup_method="linear",
)

train.update(max_iter=90000, precision="fp32", checkpointer=dict(period=5000))
