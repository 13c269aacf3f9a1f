"""`clipself web` in a real browser, and what it refuses."""

import multiprocessing
import os
import re
import signal
import socket
import sys
import time
from importlib.machinery import PathFinder

import numpy as np
import pytest
import torch
from PIL import Image

from clipself_d2 import errors
from clipself_d2.cli import web
from clipself_d2.errors import InputError

PICTURE = "#picture img"
MESSAGE = "#message textarea"
COLUMN, GAP = 256, 8


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a running page, and the file of its output, where it notes what it asks of the network."""
    pytest.importorskip("gradio", reason="the extra [web] is not installed")
    log = tmp_path_factory.mktemp("web") / "log"
    process = multiprocessing.get_context("forkserver").Process(target=run_offline, args=(["--port", "0"], str(log)))
    process.start()
    while not (log.exists() and (found := re.findall(r"open (http://127.0.0.1:\d+) ", log.read_text()))):
        assert process.is_alive(), log.read_text()
        time.sleep(0.1)
    assert log.read_text().startswith("loading the models of the page\n")
    yield found[0], log
    os.kill(process.pid, signal.SIGINT)
    process.join(20)
    assert process.exitcode == 130
    assert log.read_text().splitlines()[-1] == "interrupted; the same command opens the page again"


def run_offline(arguments, log):
    """`clipself web`, its output in a file, with a line for all that it asks of another host."""
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)

    def watch(event, details):
        hosts = {"socket.connect": lambda: details[1], "socket.getaddrinfo": lambda: details}
        if event in hosts and hosts[event]()[0] != "127.0.0.1":
            os.write(2, f"NETWORK: {event} {details}\n".encode())

    sys.addaudithook(watch)
    sys.exit(web.main(arguments))


@pytest.fixture
def page(server, browser):
    """The opened page; in the end nothing was asked of another host, and nothing failed."""
    page = browser.new_page()
    page.set_default_timeout(60_000)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server[0])
    page.locator(PICTURE).wait_for()
    yield page
    page.close()
    assert not [url for url in asked if not url.startswith((server[0], "data:", "blob:"))]
    assert not re.search("NETWORK|Traceback", server[1].read_text())


def picture(page, before=""):
    """Wait for another picture than that of the address `before`; its address and size."""
    page.wait_for_function(
        "before => { const image = document.querySelector('#picture img');"
        " return image && image.src !== before && image.complete && image.naturalWidth }",
        arg=before,
    )
    address, *size = page.locator(PICTURE).evaluate("image => [image.src, image.naturalWidth, image.naturalHeight]")
    return address, tuple(size)


def upload(page, path):
    page.get_by_label("Remove Image").click()
    page.locator("input[type=file]").set_input_files(path)


def look_for(page, words):
    page.get_by_label("Words").fill(words)
    page.get_by_label("Words").press("Tab")


@pytest.mark.slow
def test_words_and_images_make_pictures(page, tmp_path):
    """The shipped scene at first, two rows of heat maps; then other words, other tabs, and an image of one's own."""
    address, size = picture(page)
    assert 5 * COLUMN < size[0] < 6 * COLUMN and 2 * COLUMN < size[1] < 3 * COLUMN
    look_for(page, "white cross, pond")
    address, size = picture(page, address)
    assert 3 * COLUMN < size[0] < 4 * COLUMN
    beside = (2 * 640 + 3 * GAP, 22 + 640 + 2 * GAP)  # before and after CLIPSelf
    for title, expected in (
        ("Boxes", (640, 640)),
        ("Regions", beside),
        ("Panoptic", (640, 640)),
        ("CAT-Seg", (640, 640)),
        ("Segments", beside),
        ("K-Means", (800, 294)),
    ):
        page.get_by_role("tab", name=title).click()
        address, size = picture(page, address)
        assert size == expected
    Image.new("RGB", (90, 60), "red").save(tmp_path / "mine.png")
    upload(page, tmp_path / "mine.png")
    address, size = picture(page, address)
    assert size == (800, 22 + 2 * GAP + round(COLUMN * 60 / 90))
    page.get_by_role("tab", name="Boxes").click()
    assert picture(page, address)[1] == (720, 480)


@pytest.mark.slow
def test_what_is_wrong_is_one_message_without_a_path(page, tmp_path):
    from clipself_d2.visualization.web import MAX_BYTES

    def message(start):
        page.wait_for_function(f"() => document.querySelector('{MESSAGE}')?.value.startsWith('{start}')")
        assert not page.locator(PICTURE).is_visible()
        return page.locator(MESSAGE).input_value()

    (tmp_path / "text.png").write_text("no image at all")
    upload(page, tmp_path / "text.png")
    assert message("text") == "text.png: is no image that Pillow knows: replace or remove the file"
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    upload(page, tmp_path / "large.png")
    page.get_by_text("exceed the maximum allowed size of 32").wait_for()
    assert message("Give an image")
    for path in ("/etc/passwd", "../../../../etc/passwd"):
        assert page.request.get(f"{page.url}gradio_api/file={path}").status in (403, 404)
    page.reload()
    page.locator(PICTURE).wait_for()
    look_for(page, "cat, cat")
    assert "'cat' is given twice" in message("vocabulary")


def test_a_visitor_names_no_file_of_the_server_and_not_too_many_words(tmp_path):
    from clipself_d2.visualization.web import MAX_WORDS, read_words

    (tmp_path / "secret.txt").write_text("password\n")
    for text, said in (
        (f"{tmp_path}/secret.txt", "class 0 of the vocabulary"),
        (", ".join(f"w{number}" for number in range(MAX_WORDS + 1)), "51 words are more than 50"),
        ("x" * 3000, "3,000 letters"),
        (" ", "empty"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            read_words(text)
        assert "password" not in str(caught.value)
    assert read_words("cat/puss, red car") == [("cat", "puss"), ("red car",)]


def test_an_image_has_no_more_pixels_than_are_read(tmp_path, monkeypatch):
    from clipself_d2.data.image import MAX_PIXELS
    from clipself_d2.visualization.web import View, draw_view

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("1", (30, 30)).save(tmp_path / "wide.png")
    view = View("", "", lambda *_: pytest.fail("drawn"))
    drawn, message = draw_view(view, str(tmp_path / "wide.png"), "cat", 0)
    assert drawn is None and message == f"wide.png: has more pixels than {MAX_PIXELS}: set CLIPSELF_D2_MAX_PIXELS"
    assert draw_view(view, None, "cat", 0)[0] is None


def test_a_lack_of_memory_is_a_message_and_a_bug_is_not(tmp_path):
    from clipself_d2.visualization.web import View, draw_view

    def fail(error):
        raise error

    Image.new("1", (3, 3)).save(tmp_path / "a.png")
    full = View("", "", lambda *_: fail(RuntimeError("CUDA out of memory")))
    assert draw_view(full, str(tmp_path / "a.png"), "cat", 0)[1].startswith("out of memory")
    with pytest.raises(KeyError):
        draw_view(View("", "", lambda *_: fail(KeyError("x"))), str(tmp_path / "a.png"), "cat", 0)


def test_what_cannot_start_is_one_line(monkeypatch, capsys):
    def refused(*arguments):
        assert web.main(arguments) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ") and line.count("\n") == 1
        return line

    with monkeypatch.context() as patch:
        patch.setattr(errors, "find_spec", lambda name: None if name == "gradio" else PathFinder.find_spec(name))
        assert refused() == "error: clipself web needs the package gradio: pip install 'clipself_d2[web]'\n"
    assert "--compare: is for --clip" in refused("--compare", "openai")
    assert "--weights: name the detector's config" in refused("--weights", "null")
    assert "--clip and --pretrained belong together" in refused("--clip", "ViT-B-16")
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused("--port", str(taken.getsockname()[1]))
        assert "Address already in use; choose another port" in line
    assert "--host 192.0.2.1 --port" in refused("--host", "192.0.2.1")  # of no machine


def test_each_view_draws_the_image_that_is_there_at_first(monkeypatch, tmp_path):
    """The boxes and segments are those of the predictors, also for other words; each tower names the same boxes."""
    from clipself_d2 import miniature
    from clipself_d2.data import read_image
    from clipself_d2.regions import RegionClassifier
    from clipself_d2.visualization import web as page
    from clipself_d2.vocabulary import parse_words

    pytest.importorskip("gradio", reason="the extra [web] is not installed")
    served = []
    monkeypatch.setattr(page, "serve", lambda *arguments: served.extend(arguments))
    assert not web.main(["--port", "0"])
    models, _, example, words, _ = served
    example.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    views = {view.title: view for view in models.views()}
    assert list(views) == ["Heat map", "Boxes", "Regions", "Panoptic", "CAT-Seg", "Segments", "K-Means"]
    assert set(models.towers) == {"before", "CLIPSelf"}
    drawn = {}
    for title, view in views.items():
        value = view.slider.value if view.slider else 0
        drawn[title], message = page.draw_view(view, str(tmp_path / "a.png"), words, value)
        assert not message and drawn[title].width >= 128
    for title, predictor in models.trained.items():
        assert predictor.names == [synonyms[0] for synonyms in parse_words(words)]
        assert drawn[title] == predictor.draw(image, predictor(image))
        other, _ = page.draw_view(views[title], str(tmp_path / "a.png"), "pond, white cross", 0)
        assert predictor.names == ["pond", "white cross"] and other != drawn[title]
    sides = [drawn["Segments"].crop((left, 22 + GAP, left + 640, 662 + GAP)) for left in (GAP, 640 + 2 * GAP)]
    for side, predictor in zip(sides, (models.before, models.segmenter), strict=True):
        expected = np.asarray(predictor.draw(image, predictor(image)), dtype=int)
        assert np.abs(np.asarray(side, dtype=int) - expected).mean() < 2
    assert sides[0] != sides[1]

    named = []
    monkeypatch.setattr(page, "draw_boxes", lambda _, boxes, labels, colors: named.append((boxes, labels)) or example)
    page.draw_view(views["Regions"], str(tmp_path / "a.png"), words, 0.3)
    for (boxes, labels), weights in zip(named, (miniature.WEIGHTS, miniature.CLIPSELF_WEIGHTS), strict=True):
        fixed = {"templates": list(miniature.TEMPLATES), "size": models.segmenter.model.size}
        classifier = RegionClassifier.from_pretrained(miniature.MODEL, parse_words(words), pretrained=weights, **fixed)
        [probabilities] = classifier.classify_boxes([image], [boxes])
        names = models.trained["Boxes"].names
        assert labels == [f"{names[int(each.argmax())]} {float(each.max()):.2f}" for each in probabilities]
        assert len(labels) >= 3 and torch.equal(boxes, named[0][0])
