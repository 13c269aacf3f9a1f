"""Evaluation samples with panoptic or semantic ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clipself_d2.data.image import read_record
from clipself_d2.data.labels import ignore_label, read_panoptic_png, read_semantic_labels
from clipself_d2.errors import InputError


class PanopticMapper:
    """Reads an image and its labels. The masks of the ground truth can serve as a mask generator."""

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Map a record to an evaluation sample.

        Args:
            record: ``file_name`` and ``pan_seg_file_name`` with ``segments_info`` (`load_panoptic`), or
                ``sem_seg_file_name`` (`load_semantic`), or both; optionally ``ignore_label``.

        Returns:
            The record with ``image`` (3 x H x W uint8), ``height``, ``width``, ``masks`` (R x H x W bool), ``classes``
            (R long), ``isthing`` and ``iscrowd`` (R bool), in the order of ``segments_info``, and ``sem_seg`` (H x W
            long: classes, or the ignored label). Semantic labels come from their own file where there is one, else from
            the segments. Without panoptic labels, every class of the image is one segment of stuff.

        Raises:
            ImageError: if a file cannot be read.
            InputError: if there are no labels, they are of another size than the image, or the segments and the
                panoptic PNG differ.
        """
        sample = read_record(record)
        shape = sample["height"], sample["width"]
        if not {"sem_seg_file_name", "pan_seg_file_name"} & record.keys():
            raise InputError(
                f"{record['file_name']}: has no panoptic or semantic labels: name a data set that has them"
            )
        if "sem_seg_file_name" in record:
            sample["sem_seg"] = read_semantic_labels(record["sem_seg_file_name"], shape)
        if "pan_seg_file_name" in record:
            segments = record["segments_info"]
            ids = read_panoptic_png(record["pan_seg_file_name"], shape)
            indices = segment_indices(ids, [s["id"] for s in segments], record["pan_seg_file_name"])
            classes = torch.tensor([s["category_id"] for s in segments], dtype=torch.long)
            isthing = torch.tensor([bool(s["isthing"]) for s in segments], dtype=torch.bool)
            iscrowd = torch.tensor([bool(s.get("iscrowd", 0)) for s in segments], dtype=torch.bool)
            masks = indices == torch.arange(len(segments))[:, None, None]
            # The last entry is for unlabeled pixels, whose index is -1.
            sample.setdefault("sem_seg", torch.cat([classes, torch.tensor([ignore_label(record)])])[indices])
        else:
            labels = sample["sem_seg"].unique()
            classes = labels[labels != ignore_label(record)]
            isthing = iscrowd = torch.zeros(len(classes), dtype=torch.bool)
            masks = sample["sem_seg"] == classes[:, None, None]
        return {**sample, "masks": masks, "classes": classes, "isthing": isthing, "iscrowd": iscrowd}


def segment_indices(ids: Tensor, listed: Sequence[int], source: str) -> Tensor:
    """Find each pixel's segment in the list of a json.

    Args:
        ids: H x W long, the segment ids of a panoptic PNG; 0 is unlabeled.
        listed: the ids in the json.
        source: the file's name, for errors.

    Returns:
        H x W long: 0 .. len(listed) - 1, or -1 where unlabeled.

    Raises:
        InputError: if an id is listed twice, is listed but not in the PNG, or is in the PNG but not listed.
    """
    if len(set(listed)) < len(listed):
        twice = next(i for i in listed if listed.count(i) > 1)
        raise InputError(f"{source}: the json lists segment {twice} twice: fix its 'segments_info'")
    found, inverse = ids.unique(return_inverse=True)
    if lacks := sorted(set(listed) - set(found[found > 0].tolist())):
        raise InputError(f"{source}: lacks segment {lacks[0]} of the json: use the PNG and the json of one data set")
    if extra := sorted(set(found.tolist()) - {0, *listed}):
        raise InputError(f"{source}: has segment {extra[0]} that the json lacks: use the PNG and json of one data set")
    index = {id_: number for number, id_ in enumerate(listed)}
    return torch.tensor([index.get(id_, -1) for id_ in found.tolist()], dtype=torch.long)[inverse]
