"""What the paper has, read from it once more: the rows of every table, and their numbers in the order of columns.

The numbers are those of arXiv 2310.01403; of table 5 those that leaderboards repeat (mIoU after CLIPSelf).
"""

import pytest

from reproduction.catalog import ENTRIES, find, names
from reproduction.outcome import gather
from reproduction.plan import Job, Planner

EVA_B = [
    (18.2, 33.2, 20.6, 36.5, 18.4, 43.5),
    (72.1, 91.3, 74.4, 91.8, 46.8, 80.2),
    (74.0, 92.6, 76.3, 92.8, 36.8, 75.0),
]
EVA_L = [(56.7, 78.0, 59.0, 79.8, 20.8, 41.9), (77.1, 93.3, 78.7, 93.7, 44.4, 78.3)]
OPENAI_B = [(29.3, 51.6, 33.5, 56.0, 25.9, 50.9), (67.4, 88.4, 69.4, 88.5, 43.4, 76.9)]
OPENAI_L = [(21.4, 45.9, 28.3, 52.0, 11.8, 27.9), (68.9, 89.6, 70.0, 88.0, 35.5, 71.5)]
COCO = [
    (17.5, 41.0, 34.9), (33.6, 54.2, 48.8), (37.6, 54.9, 50.4), (24.7, 53.6, 46.0), (38.4, 60.6, 54.8),
    (44.3, 64.1, 59.0),
]  # fmt: skip
LVIS = [(11.5, 12.3, 20.6, 15.4), (25.3, 21.8, 29.1, 25.2), (24.2, 27.9, 31.5, 28.7), (34.9, 34.6, 35.6, 35.1)]
PAPER = {
    "1a": [("4", 71.3), ("6", 72.1), ("8", 71.6), ("10", 70.0)],
    "1b": [("3", 45.0), ("6", 59.4), ("9", 68.7), ("12", 72.1)],
    "1c": [("320", 46.5), ("640", 67.1), ("1024", 72.1), ("1024, image-text pairs", 52.3)],
    "2": [("original", *EVA_B[0]), ("patches", *EVA_B[1]), ("proposals", *EVA_B[2])],
    "3a": [(tower, *row) for tower, row in zip(["original", "patches", "proposals"] * 2, COCO, strict=True)],
    "3b": [(tower, row[0]) for tower, row in zip(["original", "patches"] * 2, LVIS, strict=True)],
    "4": [
        ("EVA-02 B/16: COCO",),
        ("EVA-02 B/16: Objects365 v1",),
        ("EVA-02 L/14-336: COCO", 40.5, 63.8, 44.3, 26.8, 44.6, 53.8),
        ("EVA-02 L/14-336: Objects365 v1", 19.5, 31.3, 20.7, 9.7, 23.2, 35.5),
    ],
    "5": [
        ("OpenAI B/16, ADE-150: original", 27.2), ("OpenAI B/16, ADE-150: CLIPSelf", 29.0),
        ("OpenAI B/16, ADE-847: original", 8.4), ("OpenAI B/16, ADE-847: CLIPSelf",),
        ("OpenAI B/16, PC-59: original", 57.5), ("OpenAI B/16, PC-59: CLIPSelf",),
        ("OpenAI L/14-336, ADE-150: original", 31.5), ("OpenAI L/14-336, ADE-150: CLIPSelf", 34.5),
        ("OpenAI L/14-336, ADE-847: original", 10.8), ("OpenAI L/14-336, ADE-847: CLIPSelf", 12.4),
        ("OpenAI L/14-336, PC-59: original", 62.0), ("OpenAI L/14-336, PC-59: CLIPSelf", 62.3),
    ],
    "6": [
        ("COCO: predicted only",),
        ("COCO: CLIP only, original", 27.6), ("COCO: CLIP only, CLIPSelf", 35.1),
        ("COCO: fused, original", 45.3, 38.1, 52.3), ("COCO: fused, CLIPSelf", 45.7),
        ("COCO: true masks, original",), ("COCO: true masks, CLIPSelf",),
        ("ADE20K: predicted only",),
        ("ADE20K: CLIP only, original", 15.3), ("ADE20K: CLIP only, CLIPSelf", 19.5),
        ("ADE20K: fused, original", 22.9, 13.4, 28.5), ("ADE20K: fused, CLIPSelf", 23.7, 13.6, 30.1),
        ("ADE20K: true masks, original",), ("ADE20K: true masks, CLIPSelf",),
    ],
    "7": [
        ("EVA-02 B/16: original", 18.2, 20.6, 18.4),
        ("EVA-02 B/16: region-text", 71.1, 73.7, 34.2),
        ("EVA-02 B/16: CLIPSelf", 74.0, 76.3, 36.8),
        ("F-ViT on EVA-02 B/16: region-text", None, None, None, 34.4, 54.2, 49.0),
        ("F-ViT on EVA-02 B/16: CLIPSelf", None, None, None, 37.6, 54.9, 50.4),
        ("F-ViT on EVA-02 L/14-336: region-text", None, None, None, 38.7, 59.6, 54.1),
        ("F-ViT on EVA-02 L/14-336: CLIPSelf", None, None, None, 44.3, 64.1, 59.0),
    ],
    "A1": [("crop",), ("without attention", *EVA_B[0]), ("ordinary last block",), ("region alone",)],
    "A2": [
        (f"{tower}: {kind}", *row)
        for tower, rows in {
            "OpenAI B/16": OPENAI_B, "EVA-02 B/16": EVA_B[:2], "OpenAI L/14-336": OPENAI_L, "EVA-02 L/14-336": EVA_L
        }.items()
        for kind, row in zip(("original", "patches"), rows, strict=True)
    ],
    "A3": [
        ("simple pyramid, last block", 23.1, 46.6, 40.4),
        ("FPN, last block", 26.5, 47.0, 41.6),
        ("FPN, intermediate blocks", 33.6, 54.2, 48.8),
        ("lr x 0.01", 31.1, 56.6, 49.9),
        ("lr x 0.1", 21.8, 58.6, 48.8),
    ],
    "A4": [
        ("OpenAI B/16: original", 16.0, 36.9, 31.4), ("OpenAI B/16: patches", 29.8, 46.9, 42.5),
        ("OpenAI L/14-336: original", 9.2, 44.3, 35.2), ("OpenAI L/14-336: patches", 31.3, 49.2, 44.6),
    ],
    "A5": [(tower, *row) for tower, row in zip(["original", "patches", "proposals"] * 2, COCO, strict=True)],
    "A6": [(tower, *row) for tower, row in zip(["original", "patches"] * 2, LVIS, strict=True)],
}  # fmt: skip
COLUMNS = {
    "1a": ["boxes.top1"],
    "2": [f"{kind}.top{k}" for kind in ("boxes", "thing_masks", "stuff_masks") for k in (1, 5)],
    "3a": [f"bbox.AP50_{group}" for group in ("novel", "base", "all")],
    "3b": ["segm.APr"],
    "4": [f"bbox.{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")],
    "5": ["sem_seg.mIoU", "sem_seg.mACC"],
    "6": ["panoptic.PQ", "segm.AP", "sem_seg.mIoU"],
    "A2": [f"{kind}.top{k}" for kind in ("boxes", "thing_masks", "stuff_masks") for k in (1, 5)],
    "A6": ["segm.APr", "segm.APc", "segm.APf", "segm.AP"],
}


@pytest.mark.parametrize("name", PAPER)
def test_a_table_has_the_paper_s_rows_and_numbers(name):
    table = find(name, "paper")
    assert len(table.rows) == len(PAPER[name])
    for row, (label, *numbers) in zip(table.rows, PAPER[name], strict=True):
        assert row.label.endswith(label) or label in row.label
        padded = [*numbers, *(None,) * (len(table.columns) - len(numbers))]
        assert list(row.paper or (None,) * len(table.columns)) == padded


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_the_paper_s_metric(name):
    assert list(find(name, "paper").columns.values()) == COLUMNS[name]


def test_all_of_the_paper_s_tables_and_figures_are_there():
    assert (
        set(names("paper"))
        == set(ENTRIES)
        == {*PAPER, "fig1", "fig3", "fig4", "coherence", "dense-modes", "successors"}
    )
    assert find("figA1", "paper").name == "fig3"
    assert [row.label for row in find("1a", "miniature").rows] == ["4", "6", "8", "10"]


@pytest.mark.parametrize("name", ["4", "5", "6"])
def test_rows_of_other_data_sets_have_no_say_in_the_order(name, tmp_path, monkeypatch):
    """Ours are the paper's plus a constant of the data set; two rows of one data set that are swapped are noticed."""
    table, planner = find(name, "paper"), Planner(tmp_path)
    rows = [row for row in table.rows if row.paper and row.paper[0] is not None]
    data = [planner.job(row.run).config.dataloader.test.dataset for row in rows]
    assert len(set(data)) > 1
    shift = {dataset: 100 * i * (-1) ** i for i, dataset in enumerate(dict.fromkeys(data))}
    ours = [row.paper[0] + shift[dataset] for row, dataset in zip(rows, data, strict=True)]
    column, metric = next(iter(table.columns.items()))
    task, _, key = metric.partition(".")

    def order(numbers):
        found = {planner.job(row.run).digest: number for row, number in zip(rows, numbers, strict=True)}

        def record(job):
            return {"results": {task: {key: found.get(job.digest, -1000)}}, "seconds": 0, "command": ""}

        monkeypatch.setattr(Job, "record", property(record))
        return gather(table, planner)["same_order"].get(column)

    if name == "4":  # one row of each data set has the paper's number
        assert order(ours) is None
        return
    assert order(ours) is True
    first, second = [i for i, dataset in enumerate(data) if dataset == data[0]][:2]
    ours[first], ours[second] = ours[second], ours[first]
    assert order(ours) is False
