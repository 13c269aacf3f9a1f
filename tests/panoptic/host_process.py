"""What a host does with the single files, in a process of its own; runs on Python 3.8 with torch 1.13.

python tests/panoptic/host_process.py clipself_d2/panoptic/standalone FOLDER...

A FOLDER holds plugin.safetensors and inputs.npz; outputs.npz and a.safetensors are written there.
"""

import sys
from pathlib import Path

REFUSED = ("clipself_d2", "open_clip", "timm", "safetensors", "torchvision", "PIL", "detectron2")


class Refuse:
    """Import nothing of this package, nor what its hosts may have in another version."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in REFUSED:
            raise ImportError(name + " is not allowed here")


def main(folder):
    import numpy as np
    import torch
    from clipself_dense import ExportedCLIP
    from clipself_masks import save_predictions
    from clipself_plugin import FCCLIPMaskClassifier, ODISEMaskClassifier

    inputs = dict(np.load(str(folder / "inputs.npz"), allow_pickle=False))
    images, masks, logits, seen = (torch.from_numpy(inputs[key]) for key in ("images", "masks", "logits", "seen"))
    classes = [name.split(",") for name in inputs["classes"]]
    clip = ExportedCLIP(folder / "plugin.safetensors", size=int(inputs["size"]))
    embeddings, valid = clip.embed_masks(images.float(), masks)

    trained = [classes[number] for number in seen.nonzero().flatten().tolist()]
    odise = ODISEMaskClassifier(clip, train_labels=trained, size_divisibility=1)
    odise.test_labels = classes
    outputs = {"images": images.float() / 255, "pred_masks": masks, "pred_open_logits": logits[..., :-1]}
    results = {
        "dense": clip.dense_map(images.float()),
        "embeddings": embeddings,
        "valid": valid,
        "logits": clip.logits(embeddings, classes),
        "odise": odise(outputs)["pred_open_logits"],
        "fcclip": FCCLIPMaskClassifier(clip)(images.float(), masks, logits, classes, seen),
    }
    np.savez(str(folder / "outputs.npz"), **{name: value.numpy() for name, value in results.items()})
    save_predictions(folder, "photos/a.jpg", masks[0], logits[0], classes, *images.shape[-2:])
    print(sys.version.split()[0], torch.__version__, np.__version__)


if __name__ == "__main__":
    sys.meta_path.insert(0, Refuse())
    sys.path.insert(0, sys.argv[1])
    for argument in sys.argv[2:]:
        main(Path(argument))
