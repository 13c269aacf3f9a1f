import re

from PIL import Image

from reproduction.page import write_page
from reproduction.tables import Row, Run, Table

OUTCOME = {
    "table": "X",
    "title": "Table X",
    "varies": "number",
    "columns": ["a", "b"],
    "note": "Mind this.",
    "rows": [
        {"label": "one", "paper_label": "uno", "ours": {"a": 12.34, "b": None}, "paper": {"a": 45.6, "b": None}},
        {"label": "two", "paper_label": "", "ours": {"a": 50.0, "b": 7.0}, "paper": {"a": None, "b": None}},
    ],
    "same_order": {},
}


def table(name, figure=""):
    lines = tuple(Row(label, Run("nothing.py")) for label in ("one", "two"))
    return Table(name, "miniature", f"What {name} <shows>", "number", {"a": "a.b", "b": "a.c"}, lines, "", figure)


def test_every_table_is_on_the_page(tmp_path):
    tables = [table("1"), table("2"), table("fig3", "curves"), table("A4")]
    folder = tmp_path / "fig3-miniature"
    folder.mkdir()
    Image.new("RGB", (30, 20), "red").save(folder / "accuracy.png")
    outcomes = {
        "1": {**OUTCOME, "same_order": {"a": True, "b": False}},
        "fig3": {**OUTCOME, "figures": ["accuracy.png", "accuracy.svg"]},
    }
    page = tmp_path / "all-miniature/report.html"
    write_page(page, tables, outcomes, {"2": ValueError("it broke")})
    html = page.read_text()
    for text in (
        "Table 1", "Table 2", "Figure 3", "Table A4", "What 1 &lt;shows&gt;", "Mind this.", "12.3", "45.6", "uno",
        "Failed: it broke", "not there yet", "python tools/reproduce.py A4",
    ):  # fmt: skip
        assert text in html
    assert html.count("data:image/png") == 1
    overview = [re.findall("<td[^>]*>(?:<span[^>]*>)?([^<]*)", row) for row in html.split("<tr>") if "What " in row]
    assert [cells[-2:] for cells in overview[: len(tables)]] == [
        ["a", "b"],
        ["✗ failed", ""],
        ["nothing to compare", ""],
        ["not there yet", ""],
    ]
    assert "1 of 2 orderings hold." in html
    assert 'src="http' not in html
