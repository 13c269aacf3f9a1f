"""clipself_d2: CLIPSelf and open-vocabulary dense prediction with CLIP vision transformers, on Detectron2."""

__version__ = "0.1.0"
