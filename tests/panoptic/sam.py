"""SAM and SAM 2 of random weights and few channels, in folders as published ones are."""

import torch


def write_sam(transformers, kind: str, folder) -> None:
    torch.manual_seed(0)
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    decoder |= {"iou_head_depth": 2, "iou_head_hidden_dim": 16, "attention_downsample_rate": 2}
    prompts = {"hidden_size": 16, "mask_input_channels": 4}
    if kind == "sam":
        small = {"hidden_size": 16, "output_channels": 16, "num_pos_feats": 8, "num_hidden_layers": 2, "mlp_dim": 32}
        small |= {"num_attention_heads": 2, "window_size": 4, "global_attn_indexes": [1]}
        config = transformers.SamConfig(
            vision_config=transformers.SamVisionConfig(image_size=64, patch_size=8, **small),
            prompt_encoder_config=transformers.SamPromptEncoderConfig(image_size=64, patch_size=8, **prompts),
            mask_decoder_config=transformers.SamMaskDecoderConfig(**decoder),
        )
        sides = {"size": 64, "mask_size": 32}
        processor = transformers.SamImageProcessor(
            **{name: {"longest_edge": side} for name, side in sides.items()},
            pad_size={"height": 64, "width": 64},
            mask_pad_size={"height": 32, "width": 32},
        )
        model = transformers.SamModel(config)
    else:
        backbone = transformers.Sam2HieraDetConfig(
            hidden_size=8,
            num_attention_heads=1,
            image_size=[128, 128],
            blocks_per_stage=[1, 1, 2, 1],
            embed_dim_per_stage=[8, 16, 32, 64],
            num_attention_heads_per_stage=[1, 1, 2, 2],
            window_size_per_stage=[8, 4, 4, 2],
            global_attention_blocks=[3],
            window_positional_embedding_background_size=[2, 2],
        )
        vision = transformers.Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
            fpn_hidden_size=16,
        )
        prompts = transformers.Sam2PromptEncoderConfig(image_size=128, patch_size=16, **prompts)
        config = transformers.Sam2Config(
            vision_config=vision,
            prompt_encoder_config=prompts,
            mask_decoder_config=transformers.Sam2MaskDecoderConfig(**decoder),
        )
        model = transformers.Sam2Model(config)
        sizes = {"size": {"height": 128, "width": 128}, "mask_size": {"height": 32, "width": 32}}
        processor = transformers.Sam2ImageProcessor(**sizes)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
