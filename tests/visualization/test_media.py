import importlib

import numpy as np
import pytest
from PIL import Image

from clipself_d2.data import ImageError
from clipself_d2.errors import InputError
from clipself_d2.visualization.media import find_media, open_medium, save_frames

LEVELS = (0, 60, 120, 180, 240)


def frames(size=(48, 32)):
    return [Image.new("RGB", size, (level, 255 - level, 0)) for level in LEVELS]


def noise():
    """Frames that do not compress, so that half of the file is about half of the frames."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)) for _ in range(5)]


def save_animation(path):
    first, *others = frames()
    first.save(
        path, save_all=True, append_images=others, duration=200, **({} if path.suffix == ".gif" else {"lossless": True})
    )
    return path


def save_film(path, codec="mp4v", pictures=None):
    cv2 = pytest.importorskip("cv2")
    pictures = pictures or frames()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, pictures[0].size)
    for frame in pictures:
        writer.write(np.asarray(frame)[:, :, ::-1].copy())
    writer.release()
    return path


def red(medium):
    return [int(frame[0].float().mean()) for frame in medium.frames]


def test_a_picture_is_one_frame(tmp_path):
    frames()[1].save(tmp_path / "a.png")
    medium = open_medium(tmp_path / "a.png")
    assert (medium.count, medium.rate) == (1, 0)
    assert red(medium) == [60]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations(tmp_path, suffix):
    medium = open_medium(save_animation(tmp_path / f"a{suffix}"))
    assert medium.count == 5 and medium.rate == pytest.approx(5)
    assert np.abs(np.array(red(medium)) - LEVELS).max() <= 3


def test_films(tmp_path):
    medium = open_medium(save_film(tmp_path / "a.mp4"))
    assert (medium.count, medium.rate) == (5, 10)
    first = next(medium.frames)
    assert first.shape == (3, 32, 48) and first[1].float().mean() > 240 and first[2].float().mean() < 20  # RGB
    assert np.abs(np.array(red(medium)) - LEVELS[1:]).max() <= 8


def test_a_film_that_ends_early_keeps_its_frames_and_warns(tmp_path, caplog):
    film = save_film(tmp_path / "a.avi", "MJPG", noise())
    content = film.read_bytes()
    film.write_bytes(content[: len(content) // 2])
    medium = open_medium(film)
    assert 0 < len(red(medium)) < medium.count == 5
    assert "a.avi: ends early, after" in caplog.text


def test_an_animation_that_ends_early_keeps_its_frames(tmp_path, caplog):
    first, *others = noise()
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=100)
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[: len(content) // 2])
    assert 1 <= len(red(open_medium(tmp_path / "a.gif"))) < 5


@pytest.mark.parametrize("name", ["a.jpg", "a.gif", "a.png", "a.webp", "a.mp4", "a.avi", "a.xyz"])
def test_what_cannot_be_read_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"no picture at all")
    with pytest.raises(ImageError, match=name) as caught:
        open_medium(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_films_need_opencv_and_pictures_do_not(tmp_path, monkeypatch):
    film, animation = save_film(tmp_path / "a.mp4"), save_animation(tmp_path / "a.gif")

    def without(name, *args, **kwargs):
        if name == "cv2":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(InputError, match="pip install opencv-python-headless"):
        open_medium(film)
    assert len(red(open_medium(animation))) == 5


def test_finding(tmp_path):
    for name in ("b.JPG", "a.gif", "c.mp4", "notes.txt", ".DS_Store"):
        (tmp_path / name).touch()
    (tmp_path / "d.png").mkdir()
    (tmp_path / "empty").mkdir()
    assert [path.name for path in find_media([tmp_path])] == ["a.gif", "b.JPG", "c.mp4"]
    named = [tmp_path / "notes.txt", tmp_path, str(tmp_path / "c.mp4")]
    assert [path.name for path in find_media(named)] == ["notes.txt", "a.gif", "b.JPG", "c.mp4"]
    with pytest.raises(InputError, match="empty: no picture or film in this folder"):
        find_media([tmp_path / "empty"])
    with pytest.raises(InputError, match=r"nothing.jpg: there is no such file or folder"):
        find_media([tmp_path / "nothing.jpg"])


@pytest.mark.parametrize(("make", "name", "suffix"), [(save_animation, "a.gif", ".gif"), (save_film, "a.mp4", ".mp4")])
def test_frames_are_written_in_the_like_format(tmp_path, make, name, suffix):
    source = make(tmp_path / name)
    medium = open_medium(source)
    output = save_frames(tmp_path / "new/x.y", iter(frames((51, 33))), medium, source)  # odd sizes too
    assert output == tmp_path / f"new/x.y{suffix}"
    again = open_medium(output)
    assert again.count == 5 and again.rate == pytest.approx(medium.rate)
    assert np.abs(np.array(red(again)) - LEVELS).max() <= 8


def test_a_picture_is_written_and_a_failure_leaves_nothing(tmp_path):
    frames()[2].save(tmp_path / "a.png")
    medium = open_medium(tmp_path / "a.png")
    output = save_frames(tmp_path / "new/a", iter(frames()[:1]), medium, tmp_path / "a.png")
    with Image.open(output) as image:
        assert (image.format, image.size) == ("JPEG", (48, 32))
    output.unlink()

    def broken():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        save_frames(tmp_path / "new/a", broken(), medium, tmp_path / "a.png")
    assert not list((tmp_path / "new").iterdir())
