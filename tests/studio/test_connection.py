"""How much the preview sends: what Jupyter and Colab carry, however fast a run is and however noisy its pictures."""

import json

import ipywidgets as widgets
import numpy as np
import pytest
from PIL import Image
from studio_hands import COLABS

from clipgen.runs.frames import Frame
from clipgen.studio import preview
from clipgen.studio.parts import to_jpeg
from clipgen.studio.preview import MAX_SIDE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COLABS, reason="ipywidgets 7 sends nothing without a kernel: see test_colab_page.py"),
]
SIDE, SECONDS, RATE, MOST = 512, 10, 20, 1_000_000


class Watch:
    """A clock that stands still until it is moved, or waited by; and what a preview sends, by its time."""

    def __init__(self, monkeypatch):
        self.now, self.sent = 0.0, []
        send = widgets.Widget._send

        def counted(widget, msg, buffers=None):
            self.sent.append((self.now, type(widget).__name__, len(json.dumps(msg)) + sum(map(len, buffers or []))))
            send(widget, msg, buffers)

        monkeypatch.setattr(widgets.Widget, "_send", counted)
        monkeypatch.setattr(preview, "time", self)
        self.preview = preview.Preview()
        self.sent.clear()

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        assert seconds >= 0
        self.now += seconds

    @property
    def most(self):
        """The most bytes of any second."""
        return max(sum(size for at, _, size in self.sent if begin <= at < begin + 1) for begin, _, _ in self.sent)

    @property
    def pictures(self):
        return sum(kind == "Image" for _, kind, _ in self.sent)


@pytest.fixture
def watch(monkeypatch):
    return Watch(monkeypatch)


def noise(seed, side):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def watched(watch, journal, pictures, rate=RATE):
    """A run of so many pictures a second, seen to its end."""
    rows = []
    for i in range(SECONDS * rate):
        watch.sleep(1 / rate)
        rows.append({"step": i + 1, "clip": 0.5 + i / 1000, "judge": 0.5 - i / 1000})
        frame = Frame(i + 1, pictures[i % len(pictures)], rows[-1])
        watch.preview.show(journal, rows, frame, more=True)
        watch.preview.show_progress("Running", f"step {i + 1}/{SECONDS * rate} · 0.05 s per iteration")
    watch.preview.show(journal, rows, frame)


@pytest.mark.parametrize("side", [SIDE, 2 * SIDE])
def test_the_noisiest_film_stays_below_a_megabyte_a_second(side, watch, run):
    pictures = [noise(seed, side) for seed in range(4)]
    watched(watch, run.journal, pictures)
    assert len(to_jpeg(pictures[0], MAX_SIDE)) * RATE > 5 * MOST, "far too much, if all were sent"
    assert 0.3 * MOST < watch.most < MOST
    assert watch.pictures >= SECONDS, "it moves all the same"
    assert watch.preview.image.value == to_jpeg(pictures[(SECONDS * RATE - 1) % 4], MAX_SIDE), "the last one is shown"


def test_small_pictures_are_all_shown(watch, run):
    watched(watch, run.journal, [noise(seed, 64) for seed in range(4)])
    assert watch.pictures == SECONDS * RATE and watch.most < MOST


def test_the_timeline_cannot_be_moved_faster_than_the_line(watch, run, monkeypatch):
    monkeypatch.setattr(run.journal, "picture", lambda row: noise(row["step"], SIDE))
    watch.preview.show(run.journal, [{"step": i + 1, "clip": 0.5} for i in range(100)])
    for frame in range(1, 100):
        watch.preview.timeline.value = frame
    assert watch.pictures == 100 and watch.most < MOST


def test_a_line_that_gets_free_between_two_looks_is_not_waited_for(watch, monkeypatch):
    """Two threads wait for one line; a sleep of less than nothing is an error that lost the views of a frame."""
    monkeypatch.setattr(watch, "monotonic", lambda: watch.sleep(1) or watch.now)  # time passes between any two looks
    for size in range(0, 4 * 600_000, 100_000):
        watch.preview.send_image(watch.preview.image, bytes(size))
