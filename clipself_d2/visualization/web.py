"""The page of `clipself web`: an image and words go in, a picture of what a CLIP makes of them comes out.

Nothing is loaded from outside, nothing that is uploaded is executed or kept, and no message names a path of the server.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import nms

from clipself_d2.clip import ImageTower
from clipself_d2.data import read_image
from clipself_d2.errors import InputError, RunError, lack_of_resources
from clipself_d2.regions import RegionClassifier, dense_features, letterbox_images
from clipself_d2.visualization.colors import class_colors, hex_color
from clipself_d2.visualization.figures import figure_to_image, image_grid
from clipself_d2.visualization.heatmaps import draw_word_maps
from clipself_d2.visualization.kmeans import compare_kmeans
from clipself_d2.visualization.predictions import draw_boxes
from clipself_d2.visualization.predictor import Predictor, Words
from clipself_d2.vocabulary import Vocabulary, parse_words

if TYPE_CHECKING:
    import gradio

MAX_BYTES = 32 * 2**20
"""Of an upload."""

MAX_WORDS = 50

_MAX_LETTERS = 2000
_HEAT_MAPS = 4  # more are too small to be seen
_CSS = "#picture img { margin-top: 2.2rem; max-height: 62vh; object-fit: contain }"  # below the buttons
_SAME_PLACE = 0.5  # IoU of boxes, of which one is named
_KEPT_SECONDS = 24 * 3600  # how long an upload is kept
_PREDICTED = {  # what a tab shows, and the lowest score that is drawn
    "Boxes": ("What a detector finds that was trained with some classes, and is asked for any.", 0.3),
    "Regions": ("The boxes of the detector, each named by the CLIP alone.", 0.3),
    "Panoptic": ("Masks of a generator that was trained with some classes; CLIP names those of any.", 0.0),
    "CAT-Seg": ("The best word for every pixel, by a model that was trained with some classes.", 0.0),
    "Segments": ("The best word for every pixel, by the text alone. Name what surrounds your things too.", 0.0),
}


class Slider(NamedTuple):
    """A number that a view takes."""

    label: str
    low: float
    high: float
    step: float
    value: float


class View(NamedTuple):
    """A tab of the page.

    Attributes:
        title: of the tab.
        text: what it shows.
        draw: makes the picture of an image, words and the slider's value.
        slider: None for a view without.
    """

    title: str
    text: str
    draw: Callable[[Tensor, Words, float], Image.Image]
    slider: Slider | None = None


@dataclass(frozen=True)
class Models:
    """What the page looks with.

    Attributes:
        segmenter: a `ZeroShotSegmenter`, whose towers also make the heat maps and the K-Means maps.
        before: the same with the CLIP before CLIPSelf, for comparison.
        trained: detectors and segmenters by the titles of their tabs: Boxes, Panoptic, CAT-Seg.
    """

    segmenter: Predictor
    before: Predictor | None = None
    trained: Mapping[str, Predictor] = field(default_factory=dict)

    @property
    def segmenters(self) -> dict[str, Predictor]:
        """What to call the segmenters, and the segmenters."""
        return (
            {"CLIPSelf": self.segmenter} if self.before is None else {"before": self.before, "CLIPSelf": self.segmenter}
        )

    @property
    def towers(self) -> dict[str, ImageTower]:
        """What to call the towers, and the towers."""
        return {title: segmenter.model.tower for title, segmenter in self.segmenters.items()}

    def views(self) -> list[View]:
        """The tabs."""
        draw: dict[str, Callable[[Tensor, Words, float], Image.Image]] = {}
        for title, predictor in self.trained.items():
            draw[title] = partial(_predict, {title: predictor})
            if title == "Boxes":
                draw["Regions"] = self.draw_regions
        draw["Segments"] = partial(_predict, self.segmenters)
        predicted = [
            View(title, text, draw[title], Slider("Lowest score", 0, 1, 0.01, threshold))
            for title, (text, threshold) in _PREDICTED.items()
            if title in draw
        ]
        return [
            View(
                "Heat map",
                f"The cosine of every location of the dense map with each word (the first {_HEAT_MAPS}), on one scale.",
                self.draw_heat_maps,
            ),
            *predicted,
            View(
                "K-Means",
                "Locations of the dense map that are alike; words play no part. One thing should be one cluster.",
                self.draw_kmeans,
                Slider("Clusters", 2, 16, 1, 6),
            ),
        ]

    def draw_heat_maps(self, image: Tensor, words: Words, _: float) -> Image.Image:
        """Draw the heat maps of the first words."""
        vocabulary = Vocabulary.from_classes(words[:_HEAT_MAPS], self.segmenter.text, background=None)
        return figure_to_image(draw_word_maps(self.towers, vocabulary, image, self.segmenter.model.size))

    @torch.inference_mode()
    def draw_regions(self, image: Tensor, words: Words, threshold: float) -> Image.Image:
        """Draw the detector's boxes, one per place, with the names that each tower gives them."""
        detector = self.trained["Boxes"]
        detector.set_words(words)
        found = detector(image)["instances"]
        found = found[found.scores >= threshold]
        boxes = found.pred_boxes.tensor
        boxes = boxes[nms(boxes, found.scores, _SAME_PLACE)]
        vocabulary = Vocabulary.from_classes(words, self.segmenter.text, background=None)
        palette = [hex_color(color) for color in class_colors(vocabulary.names)]
        drawn = {}
        for title, tower in self.towers.items():
            classifier = RegionClassifier(tower, vocabulary, size=self.segmenter.model.size)
            scores, classes = classifier.classify_boxes([image], [boxes])[0].max(dim=1)
            best = list(zip(classes.tolist(), scores.tolist(), strict=True))
            labels = [f"{vocabulary.names[k]} {score:.2f}" for k, score in best]
            drawn[title] = draw_boxes(image, boxes, labels, [palette[k] for k, _ in best])
        return _side_by_side(drawn)

    @torch.inference_mode()
    def draw_kmeans(self, image: Tensor, _: Words, clusters: float) -> Image.Image:
        """Draw the clusters of the dense maps."""
        dense = {}
        for title, tower in self.towers.items():
            features = dense_features(tower, letterbox_images(tower, [image], self.segmenter.model.size))
            dense[title] = features.without_padding()
        return compare_kmeans([image], dense, int(clusters))


def _predict(predictors: Mapping[str, Predictor], image: Tensor, words: Words, threshold: float) -> Image.Image:
    drawn = {}
    for title, predictor in predictors.items():
        predictor.set_words(words)
        predictor.threshold = threshold
        drawn[title] = predictor.draw(image, predictor(image))
    return _side_by_side(drawn)


def _side_by_side(drawn: Mapping[str, Image.Image]) -> Image.Image:
    [first, *others] = drawn.values()
    return image_grid([[first, *others]], tuple(drawn), width=first.width) if others else first


def read_words(text: str) -> list[tuple[str, ...]]:
    """Parse the words of a visitor, who may name no file of the server.

    Raises:
        InputError: too many, or see `parse_words`.
    """
    if len(text) > _MAX_LETTERS:
        raise InputError(f"the words have {len(text):,} letters, more than {_MAX_LETTERS:,}: give fewer")
    words = parse_words(text)
    if len(words) > MAX_WORDS:
        raise InputError(f"{len(words)} words are more than {MAX_WORDS}: give fewer")
    return words


def draw_view(view: View, path: str | None, words: str, value: float) -> tuple[Image.Image | None, str]:
    """Draw a view, or say in a line what is wrong.

    Args:
        view: the tab.
        path: the uploaded file. None: no image yet.
        words: the visitor's text.
        value: of the view's slider.

    Returns:
        The picture, and an empty text; or None and the line, where the name of the file stands for its path.
    """
    if path is None:
        return None, "Give an image: drop a file on the left, or paste it."
    try:
        return view.draw(read_image(path), read_words(words), value), ""
    except Exception as error:
        line = lack_of_resources(error) or error
        if not isinstance(line, InputError | RunError):
            raise
        return None, str(line).replace(path, Path(path).name)


def build_page(models: Models, about: str, example: Image.Image | None, words: str) -> gradio.Blocks:
    """Lay out the page.

    Args:
        models: what it looks with.
        about: a sentence on the CLIP.
        example: the image that is there at first.
        words: the words that are there at first.
    """
    import gradio as gr

    views = models.views()

    def draw(number: int, path: str | None, text: str, *values: float) -> tuple[Any, Any]:
        picture, message = draw_view(views[number], path, text, values[number])
        return gr.update(value=picture, visible=picture is not None), gr.update(value=message, visible=bool(message))

    with gr.Blocks(title="clipself", analytics_enabled=False, delete_cache=(3600, _KEPT_SECONDS)) as page:
        gr.Markdown(f"# Words in images\n{about}")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                upload: Any = gr.Image(
                    example,
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    label="Image",
                    height=320,
                )
                # Gradio's own opens the file; what is wrong with it is for `read_image` to say.
                upload.preprocess = lambda payload: payload and payload.path
                text = gr.Textbox(
                    words,
                    label="Words",
                    info="Commas separate words, slashes the synonyms of a word.",
                    max_length=_MAX_LETTERS,
                    submit_btn="Look",
                    lines=2,
                )
            with gr.Column(scale=3, min_width=480):
                shown = gr.State(0)
                sliders = []
                with gr.Tabs():
                    for number, view in enumerate(views):
                        with gr.Tab(view.title) as tab:
                            gr.Markdown(view.text)
                            label, low, high, step, value = view.slider or Slider("", 0, 1, 1, 0)
                            sliders.append(
                                gr.Slider(low, high, value, step=step, label=label, visible=view.slider is not None)
                            )
                        tab.select(lambda number=number: number, None, shown, api_visibility="private")
                message = gr.Textbox(show_label=False, interactive=False, visible=False, elem_id="message")
                picture = gr.Image(
                    show_label=False,
                    interactive=False,
                    format="png",
                    buttons=["download", "fullscreen"],
                    elem_id="picture",
                )
        gr.on(
            [page.load, shown.change, upload.change, text.submit, text.blur, *(slider.change for slider in sliders)],
            draw,
            [shown, upload, text, *sliders],
            [picture, message],
            trigger_mode="always_last",
            show_progress="minimal",
            api_visibility="private",
        )
    return page


def serve(models: Models, about: str, example: Image.Image | None, words: str, listener: socket.socket) -> None:
    """Serve the page until the process is told to end.

    Args:
        models: see `build_page`.
        about: see `build_page`.
        example: see `build_page`.
        words: see `build_page`.
        listener: the port that it listens on.
    """
    with TemporaryDirectory(prefix="clipself_web_") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}  # read on import
        import gradio as gr
        import uvicorn
        from fastapi import FastAPI

        page = build_page(models, about, example, words)
        system = ["system-ui", "sans-serif"]  # Gradio's own fonts come from Google
        app = gr.mount_gradio_app(
            FastAPI(openapi_url=None),
            page,
            path="/",
            theme=gr.themes.Default(font=system, font_mono=["ui-monospace", "monospace"]),
            css=_CSS,
            max_file_size=MAX_BYTES,
            show_error=False,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
        )
        host, port = listener.getsockname()[:2]
        print(f"open http://{host}:{port} in a browser; Ctrl-C ends it", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])
