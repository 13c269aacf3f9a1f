import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from PIL import Image

from clipself_d2.data import ImageError
from clipself_d2.files import Stream, output_stems
from clipself_d2.visualization.media import open_frames, write_frames

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


def save_video(path, codec="mp4v", images=None):
    images = images or frames()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, images[0].size)
    for frame in images:
        writer.write(np.asarray(frame)[:, :, ::-1].copy())
    writer.release()
    return path


def red(source):
    return [int(frame[0].float().mean()) for frame in source.frames]


def test_an_image_is_one_frame(tmp_path):
    frames()[1].save(tmp_path / "a.png")
    source = open_frames(tmp_path / "a.png")
    assert (source.count, source.fps) == (1, 0)
    assert red(source) == [60]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations(tmp_path, suffix):
    source = open_frames(save_animation(tmp_path / f"a{suffix}"))
    assert source.count == 5 and source.fps == pytest.approx(5)
    assert np.abs(np.array(red(source)) - LEVELS).max() <= 3


def test_videos(tmp_path):
    source = open_frames(save_video(tmp_path / "a.mp4"))
    assert (source.count, source.fps) == (5, 10)
    first = next(source.frames)
    assert first.shape == (3, 32, 48) and first[1].float().mean() > 240 and first[2].float().mean() < 20  # RGB
    assert np.abs(np.array(red(source)) - LEVELS[1:]).max() <= 8


def test_a_video_that_ends_early_keeps_its_frames_and_warns(tmp_path, caplog):
    video = save_video(tmp_path / "a.avi", "MJPG", noise())
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    source = open_frames(video)
    assert 0 < len(red(source)) < source.count == 5
    assert "a.avi: ends early, after" in caplog.text


def test_an_animation_that_ends_early_keeps_its_frames(tmp_path, caplog):
    first, *others = noise()
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=100)
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[: len(content) // 2])
    assert 1 <= len(red(open_frames(tmp_path / "a.gif"))) < 5


@pytest.mark.parametrize("name", ["a.jpg", "a.gif", "a.png", "a.webp", "a.mp4", "a.avi", "a.xyz"])
def test_what_cannot_be_read_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"no image at all")
    with pytest.raises(ImageError, match=name) as caught:
        open_frames(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_long_names_are_cut_and_stay_different(tmp_path):
    names = ["x" * 247 + "1", "x" * 247 + "2", "\N{CAT FACE}" * 60]
    files = [tmp_path / f"{name}.png" for name in names]
    for file in files:
        Image.new("RGB", (4, 4)).save(file)
    stems = output_stems(files, tmp_path / "out")
    assert len(set(stems)) == 3
    for file, stem in zip(files, stems, strict=True):
        assert write_frames(stem, iter([Image.new("RGB", (4, 4))]), open_frames(file)).is_file()


@pytest.fixture
def server(tmp_path):
    """The URL of a folder with a video and a text."""
    save_video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_text("no video")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:secret@127.0.0.1:{server.server_port}"
        server.shutdown()


def test_streams(server, tmp_path):
    source = open_frames(Stream(f"{server}/a.mp4"))
    assert (source.count, source.fps) == (0, 10)
    assert np.abs(np.array(red(source)) - LEVELS).max() <= 8
    assert write_frames(tmp_path / "out", iter(frames()), source) == tmp_path / "out.mp4"


def test_a_stream_that_is_not_there_is_one_line(server, capfd):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    for url in (f"{server}/b.mp4", f"{server}/absent.mp4", f"rtsp://127.0.0.1:{closed}/live", "webcam:93"):
        with pytest.raises(ImageError, match="the stream cannot be opened: check its address") as caught:
            open_frames(Stream(url))
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    assert not capfd.readouterr().err


@pytest.mark.parametrize(("make", "name", "suffix"), [(save_animation, "a.gif", ".gif"), (save_video, "a.mp4", ".mp4")])
def test_frames_are_written_in_a_file_of_the_same_kind(tmp_path, make, name, suffix):
    source = open_frames(make(tmp_path / name))
    output = write_frames(tmp_path / "new/x.y", iter(frames((51, 33))), source)  # odd sizes too
    assert output == tmp_path / f"new/x.y{suffix}"
    again = open_frames(output)
    assert again.count == 5 and again.fps == pytest.approx(source.fps)
    assert np.abs(np.array(red(again)) - LEVELS).max() <= 8


def test_an_image_is_written_and_a_failure_leaves_nothing(tmp_path):
    frames()[2].save(tmp_path / "a.png")
    source = open_frames(tmp_path / "a.png")
    output = write_frames(tmp_path / "new/a", iter(frames()[:1]), source)
    with Image.open(output) as image:
        assert (image.format, image.size) == ("JPEG", (48, 32))
    output.unlink()

    def broken():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        write_frames(tmp_path / "new/a", broken(), source)
    assert not list((tmp_path / "new").iterdir())
