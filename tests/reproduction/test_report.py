import io

import pytest
from PIL import Image
from rich.console import Console

from reproduction.report import headings, markdown, rich_table, same_order, verdict, write_page
from reproduction.tables import Row, Run, Table


@pytest.fixture
def outcome():
    rows = [
        {"label": "one", "paper_label": "uno", "ours": {"a": 12.34, "b": None}, "paper": {"a": 45.6, "b": None}},
        {"label": "two", "paper_label": "", "ours": {"a": 50.0, "b": 7.0}, "paper": {"a": None, "b": None}},
    ]
    common = {"table": "X", "scale": "paper", "title": "Table X", "varies": "number", "columns": ["a", "b"]}
    return {**common, "note": "Mind this.", "rows": rows, "same_order": {}}


def test_columns_of_the_paper_without_a_number_are_left_out(outcome):
    labels = [("label", "number"), ("paper_label", "paper's row")]
    assert headings(outcome) == [*labels, ("ours", "a"), ("paper", "a"), ("ours", "b")]
    for row in outcome["rows"]:
        row["paper_label"] = ""
    assert headings(outcome) == [labels[0], ("ours", "a"), ("paper", "a"), ("ours", "b")]


def test_markdown(outcome):
    outcome["same_order"] = {"a": True}
    lines = markdown(outcome).splitlines()
    assert lines[0] == "**Table X**"
    assert lines[2:6] == [
        "| number | paper's row | a | a, paper | b |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| one | uno | 12.3 | 45.6 |  |",
        "| two |  | 50.0 |  | 7.0 |",
    ]
    assert lines[-1] == "Mind this. The rows' order is the paper's."


def test_another_order_is_said_in_words(outcome):
    outcome["same_order"] = {"a": True, "b": False}
    assert markdown(outcome).splitlines()[-1] == "Mind this. The rows' order is not the paper's in b."


def test_the_terminal_shows_the_same(outcome):
    text = io.StringIO()
    Console(file=text, width=120).print(rich_table(outcome))
    for word in ("Table X", "paper's row", "12.3", "45.6", "Mind this."):
        assert word in text.getvalue()


def rows(*numbers, data=("",)):
    """Rows of (paper's, ours), of data sets in turn."""
    return [
        {"paper": {"a": paper}, "ours": {"a": ours}, "data": data[i % len(data)]}
        for i, (paper, ours) in enumerate(numbers)
    ]


@pytest.mark.parametrize(
    ("found", "same"),
    [
        (rows((10, 1), (20, 5), (30, 6)), True),
        (rows((10, 1), (20, 5), (30, 4)), False),
        (rows((10, 1), (20, 1)), False),  # the paper tells them apart
        (rows((10, 1), (10, 5)), None),
        (rows((10, 1), (None, 5)), None),
        (rows((10, None), (20, 5)), None),
        (rows((10, 5), (20, 1), data=("coco", "ade")), None),  # rows of different data sets are not compared
        (rows((10, 5), (20, 1), (30, 6), (40, 2), data=("coco", "ade")), True),
    ],
)
def test_the_order_of_rows(found, same):
    assert same_order(found, "a") is same


@pytest.mark.parametrize(
    ("orders", "text", "tone"),
    [
        ({}, "nothing to compare", "quiet"),
        ({"first": True}, "✓ holds", "good"),
        ({"first": False, "second": True, "third": False}, "✗ not in 2 of 3 columns", "bad"),
    ],
)
def test_whether_the_order_holds(outcome, orders, text, tone):
    mark = verdict({**outcome, "same_order": orders})
    assert (mark.value, mark.tone) == (text, tone)


def table(name, figure=""):
    lines = tuple(Row(label, Run("nothing.py")) for label in ("one", "two"))
    return Table(name, "miniature", f"What {name} <shows>", "number", {"a": "a.b", "b": "a.c"}, lines, "", figure)


def test_every_table_is_on_the_page(outcome, tmp_path):
    tables = [table("1"), table("2"), table("fig3", "curves"), table("A4")]
    folder = tmp_path / "fig3-miniature"
    folder.mkdir()
    Image.new("RGB", (30, 20), "red").save(folder / "accuracy.png")
    outcomes = {
        "1": {**outcome, "same_order": {"a": True, "b": True}},
        "fig3": {**outcome, "figures": ["accuracy.png", "accuracy.svg"]},
    }
    page = tmp_path / "all-miniature/report.html"
    write_page(page, tables, outcomes, {"2": ValueError("it broke")}, 3661)
    html = page.read_text()
    for text in (
        "Table 1", "Table 2", "Figure 3", "Table A4", "What 1 &lt;shows&gt;", "Mind this.", "12.3", "45.6", "uno",
        "Failed: it broke", "Not there yet.", "2 of 4", "1 of 1", "1:01:01", "python tools/reproduce.py A4",
    ):  # fmt: skip
        assert text in html
    assert html.count("data:image/png") == 1
    assert html.count("✓ holds") == 1 and html.count("✗ failed") == 1
    assert 'src="http' not in html
