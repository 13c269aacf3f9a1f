"""Which files are read, and how those are named that are written."""

from pathlib import Path

import pytest

from clipself_d2.errors import InputError
from clipself_d2.files import Stream, find_files, is_stream, output_stems


def test_finding(tmp_path, monkeypatch):
    for name in ("b.JPG", "a.gif", "c.mp4", "notes.txt", ".DS_Store"):
        (tmp_path / name).touch()
    (tmp_path / "d.png").mkdir()
    (tmp_path / "d.png/inside.png").touch()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/e.png").touch()
    (tmp_path / "._b.png").touch()
    (tmp_path / "empty").mkdir()
    assert [path.name for path in find_files([tmp_path])] == ["a.gif", "b.JPG", "c.mp4", "inside.png"]
    assert [path.name for path in find_files([tmp_path / "*.*"])] == ["a.gif", "b.JPG", "c.mp4", "inside.png"]
    assert [path.name for path in find_files([str(tmp_path / "**/*.png")])] == ["inside.png"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_files(["~/a.gif", tmp_path / "a.gif"]) == [tmp_path / "a.gif"]
    (tmp_path / "[1].png").touch()
    assert find_files([tmp_path / "[1].png"]) == [tmp_path / "[1].png"]
    (tmp_path / "[1].png").unlink()
    named = [tmp_path / "notes.txt", tmp_path, str(tmp_path / "c.mp4")]
    assert [path.name for path in find_files(named)] == ["notes.txt", "a.gif", "b.JPG", "c.mp4", "inside.png"]
    with pytest.raises(InputError, match="empty: no image or video in this folder"):
        find_files([tmp_path / "empty"])
    with pytest.raises(InputError, match="no image or video"):
        find_files([tmp_path / "*.txt"])
    assert [path.name for path in find_files([tmp_path], {".gif", ".png"})] == ["a.gif", "inside.png"]
    with pytest.raises(InputError, match=r"nothing.jpg: there is no such file or folder"):
        find_files([tmp_path / "nothing.jpg"])


def test_no_two_results_have_one_name():
    def names(*files):
        return [str(stem) for stem in output_stems([Path(file) for file in files], Path("out"))]

    assert names("x/p.png") == ["out/p"] and names("p.png", "q.png") == ["out/p", "out/q"]
    assert names("x/p.png", "y/p.png") == ["out/x/p", "out/y/p"]
    assert names("x/p.png", "x/z/p.png", "x/z/q.png") == ["out/p", "out/z/p", "out/z/q"]
    assert names("p.png", "p.webp", "p.png.gif") == ["out/p.png", "out/p.webp", "out/p.png.gif"]
    assert names("/a/p.png", str(Path.cwd() / "p.png")) == ["out/a/p", f"out{Path.cwd()}/p"]


def test_results_do_not_go_where_the_inputs_are(tmp_path):
    for folder in (tmp_path, tmp_path / "x/..", f"{tmp_path}/y/../."):
        with pytest.raises(InputError, match="has the inputs, which would be overwritten"):
            output_stems([tmp_path / "p.png", tmp_path / "x/p.png"], Path(folder))


def test_what_is_a_stream(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    streams = ["rtsp://host/live", "HTTPS://host:80/a.m3u8?token=1", "webcam", "webcam:2"]
    assert all(map(is_stream, streams)) and not any(map(is_stream, ["a.mp4", "webcams", "webcam:", "dir/webcam"]))
    for image in ("https://host/cat.JPG", "http://host/a/b.png?size=3"):
        assert not is_stream(image)
        with pytest.raises(InputError, match=r"\?size=3: is no file: download it|cat\.JPG: is no file: download it"):
            find_files([image])
    (tmp_path / "webcam").touch()
    assert not is_stream("webcam")
    stems = output_stems([*map(Stream, streams), Stream("https://host:80/a.m3u8?token=2"), Path("p.png")], Path("out"))
    names = [stem.name for stem in stems]
    assert names[0] == "host_live" and names[2:4] == ["webcam", "webcam_2"] and names[5] == "p"
    assert (
        names[1].startswith("host_80_a_m3u8_") and len(set(names)) == 6 and {s.parent for s in stems} == {Path("out")}
    )
