import pytest
from PIL import Image

from clipself_d2.reproduce.page import verdict, write_page
from clipself_d2.reproduce.table import Row, Run, Table


def table(name, figure=""):
    rows = tuple(Row(label, Run("nothing.py"), ("a.b", "")) for label in ("one", "two"))
    return Table(name, "miniature", f"What {name} <shows>", "number", ("first", "second"), rows, figure=figure)


def outcome(**same_order):
    rows = [
        {"label": "one", "paper_label": "uno", "ours": {"first": 12.34, "second": None}, "paper": {"first": 45.6}},
        {"label": "two", "paper_label": "", "ours": {"first": 50.0, "second": 7.0}, "paper": {"first": None}},
    ]
    for row in rows:
        row["paper"]["second"] = None
    return {"rows": rows, "note": "Mind this.", "same_order": same_order}


def test_every_table_is_on_the_page(tmp_path):
    tables = [table("1"), table("2"), table("fig3", "curves"), table("A4")]
    folder = tmp_path / "fig3-miniature"
    folder.mkdir()
    Image.new("RGB", (30, 20), "red").save(folder / "accuracy.png")
    outcomes = {
        "1": outcome(first=True, second=True),
        "fig3": {**outcome(), "figures": ["accuracy.png", "accuracy.svg"]},
    }
    page = write_page(tmp_path / "all-miniature/report.html", tables, outcomes, {"2": "it broke"}, 3661)
    html = page.read_text()
    for text in (
        "Table 1", "Table 2", "Figure 3", "Table A4", "What 1 &lt;shows&gt;", "Mind this.", "12.3", "45.6", "uno",
        "Failed: it broke", "Not there yet.", "2 of 4", "1 of 1", "1:01:01", "python tools/reproduce.py A4",
    ):  # fmt: skip
        assert text in html
    assert html.count("data:image/png") == 1
    assert html.count("✓ holds") == 1 and html.count("✗ failed") == 1
    assert 'src="http' not in html


@pytest.mark.parametrize(
    ("orders", "text", "tone"),
    [
        ({}, "nothing to compare", "quiet"),
        ({"first": True}, "✓ holds", "good"),
        ({"first": False, "second": True, "third": False}, "✗ not in 2 of 3 columns", "bad"),
    ],
)
def test_whether_the_order_holds(orders, text, tone):
    mark = verdict(outcome(**orders))
    assert (mark.value, mark.tone) == (text, tone)
