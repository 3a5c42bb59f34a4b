"""The settings of a run as widgets, made from what each setting declares."""

import html
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import ipywidgets as widgets
import pytest
from PIL import Image
from studio_hands import COLABS, SMALL, below, blue, click, control, named, parts, png, put, upload

import clipgen
from clipgen.export.html import to_url
from clipgen.prompts import Prompt, parse
from clipgen.runs.settings import Settings, build
from clipgen.studio.controls import SECTIONS, Controls, label_of
from clipgen.studio.parts import Brush, Dial, ErrorMessage, Fold, Webcam

FIELDS = fields(Settings)[1:]


def groups(controls):
    """The widgets of a Studio's settings below each heading."""
    found, heading = {}, ""
    for part in controls.children:
        if isinstance(part, Fold):
            found[re.sub(r" \(.+", "", part.button.description)] = part
        elif "clipgen-heading" in part._dom_classes:
            heading = re.search("<b>(.+?)</b>", part.value)[1]
            found[heading] = widgets.VBox()
        elif heading:
            found[heading].children += (part,)
    return found


@pytest.fixture(scope="module")
def untouched():
    """The controls of a Studio, which are only looked at."""
    return Controls(Settings("a red heart"), Path(), ErrorMessage(), print)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_setting_has_its_widget_its_help_and_its_place(field, untouched):
    controls = untouched
    widget = control(groups(controls)[SECTIONS[field.metadata["section"]]], field.name)
    assert control(controls, field.name) is widget
    for part in widget.children if isinstance(widget, Dial) else [widget]:
        assert getattr(part, "description_tooltip" if COLABS else "tooltip") == field.metadata["help"]
    assert (field.name in controls.live_values) == field.metadata["live"]
    value = controls.values[field.name]
    assert value == field.default and type(value) is type(field.default)
    if field.metadata["choices"]:
        assert widget.options == field.metadata["choices"]
    elif common := field.metadata["common"]:
        assert tuple(widget.options) == tuple(common() if callable(common) else common)


def test_what_is_steered_is_said_in_words(studio):
    place = groups(studio.controls)["Steer while it runs"]
    dials = [part for part in below(place) if isinstance(part, widgets.FloatSlider)]
    assert [dial.description for dial in dials] == ["Smoothness", "Nearness"]
    others = {"near", "tv", "Learning rate", "Cutouts per step"}
    assert not others & {getattr(part, "description", "") for part in below(place)}
    put(studio, near=0.5, tv=0.25)
    assert (studio.controls.values["near"], studio.controls.values["tv"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    "name, said, meant",
    [
        ("near", 7.5, 7.5),
        ("near", "2@0-30, 0.5@30-", "2@0-30, 0.5@30-"),
        ("lr", "0.25", 0.25),
        ("lr", "0.2@0-50, 0.02@50-", "0.2@0-50, 0.02@50-"),
        ("cutouts", "9", 9),
    ],
)
def test_a_number_is_a_number_and_a_schedule_a_schedule(name, said, meant, studio):
    studio.controls.put({name: said})
    value = studio.controls.values[name]
    assert value == meant and type(value) is type(meant)
    control(studio.controls, name).value = 1.0 if name == "near" else "1"
    assert studio.controls.values[name] == 1


def test_a_schedule_on_a_dial_is_text_until_it_is_a_number_again(studio):
    dial = control(studio.controls, "near")
    slider, field = dial.children
    dial.value = "2@0-30"
    assert (slider.layout.display, field.layout.display, field.value) == ("none", "", "2@0-30")
    field.value = "0.75"
    assert (slider.layout.display, field.layout.display, slider.value) == ("", "none", 0.75)
    slider.value = 1.5
    assert dial.value == 1.5


def test_what_is_asked_is_what_was_said(studio):
    asked = {"settled": 0.0} | studio.controls.values
    assert Settings(**asked) == build("a red heart", {"steps": 8, "init": "perlin"} | SMALL)
    assert studio.controls.live_values.keys() < studio.controls.values.keys()


GLOW = """
from dataclasses import dataclass
from clipgen.losses.regularisers import Regulariser
from clipgen.setting import setting

@dataclass(frozen=True)
class Glow(Regulariser):
    name = "glow"
    glow: float = setting(0.0, "weight of more light", 0, section="steer")
    lamp: str = setting("sun", "where it comes from", common=lambda: ["sun", "moon"])
    upwards: bool = setting(False, "from below", live=False, section="start")

    def of(self, images):
        return -images.mean() if self.lamp == "moon" and self.upwards else images.new_tensor(0.0)
"""
SCRIPT = """
from clipgen.registry import LOSSES
LOSSES["glow"] = "glow:Glow"  # the line that a newcomer adds
import clipgen
from studio_hands import SMALL, control, named, put
from test_controls import groups

studio = clipgen.Studio("a star", steps=6, **SMALL)
places = groups(studio.controls)
glow, (lamp,) = control(places["Steer while it runs"], "glow"), named(places["Look"], "Lamp")
assert glow.slider.min == 0 and tuple(lamp.options) == ("sun", "moon")
assert {"glow", "lamp"} < studio.controls.live_values.keys() and "upwards" not in studio.controls.live_values
light = []
for weight in (0.0, 50.0):
    put(studio, glow=weight, lamp="moon", upwards=True)
    studio.generate()
    settings = studio.wait().settings
    assert (settings.glow, settings.lamp, settings.upwards) == (weight, "moon", True), settings
    light.append(sum(studio.job.run.image.convert("L").tobytes()))
assert light[1] > light[0], light
"""


@pytest.mark.slow
def test_a_setting_that_a_part_brings_along_has_its_widget(tmp_path):
    """A file and a line for a new objective, and nothing in the Studio."""
    (tmp_path / "glow.py").write_text(GLOW)
    paths = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(Path(__file__).parent)!r}]\n"
    done = subprocess.run([sys.executable, "-c", paths + SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("heading", ["Start", "Cutouts"])
def test_groups_fold(heading, studio):
    button, box = groups(studio.controls)[heading].children
    assert isinstance(button, widgets.ToggleButton)
    for shown in (False, True, False):
        button.value = shown
        assert box.layout.display == ("" if shown else "none")
        assert button.icon == ("caret-down" if shown else "caret-right")
        assert button.tooltip.startswith("Open" if shown else "Closed")


@pytest.mark.parametrize("quality, steps, cutouts", [("draft", 60, 8), ("best", 300, 32)])
def test_quality_sets_what_it_stands_for(quality, steps, cutouts, studio):
    put(studio, lr=0.3, quality=quality)
    asked = studio.controls.values
    assert (asked["steps"], asked["cutouts"], asked["lr"]) == (steps, cutouts, 0.3), "what it says nothing about stays"
    put(studio, quality="normal")
    assert (studio.controls.values["steps"], studio.controls.values["cutouts"]) == (120, 16)


def test_the_dice_change_the_seed(studio):
    seeds = set()
    for _ in range(5):
        click(studio, "Random seed")
        seeds.add(studio.controls.values["seed"])
    assert len(seeds) > 1


def test_large_numbers_stay_as_they_are(tmp_path):
    assert clipgen.Studio(folder=tmp_path, seed=2**53 - 1).controls.values["seed"] == 2**53 - 1


@pytest.mark.slow
def test_a_picture_as_a_prompt(studio, tmp_path):
    upload(studio.controls.rows, "my photo:1.png", blue())
    (prompt,) = parse(studio.controls.rows.line)
    assert prompt.is_image and Path(prompt.text).parent == tmp_path / "uploads" and prompt.weight == 1
    named(studio, "Weight 1")[0].value = 3.0
    click(studio, "Generate")
    assert studio.wait().prompts == [Prompt(prompt.text, 3.0, is_image=True)]
    upload(studio.controls.rows, "words.png", b"no picture")
    assert "cannot be read as a picture" in studio.preview.error.value


@pytest.mark.slow
def test_a_start_from_the_webcam_and_a_painted_mask(studio):
    (webcam,), (brush,) = parts(studio, Webcam), parts(studio, Brush)
    webcam.picture = to_url(blue(), "image/png")  # as webcam.js sets it
    put(studio, steps=2)
    click(studio, "Generate")
    run = studio.wait()
    assert Path(run.settings.init).name.startswith("webcam-")
    assert run.journal.inputs()[run.settings.init].getpixel((5, 5)) == (20, 60, 220)

    named(studio, "Paint a mask")[0].value = True
    assert brush.ground.startswith("data:image/jpeg;base64,") and brush.layout.display == ""
    brush.mask = to_url(png(Image.new("L", (64, 64), 255)), "image/png")
    assert Path(studio.controls.values["mask"]).name.startswith("mask-")
    brush.mask = ""
    assert studio.controls.values["mask"] == ""


def test_a_setting_is_found_by_a_word(studio):
    sections = {"cutouts": "Cutouts", "palette": "Look"}
    for word, heading in sections.items():
        studio.controls.search.value = word.upper()
        fold = groups(studio.controls)[heading]
        assert fold.button.value and fold.layout.display == ""
        visible = [name for name, cell in studio.controls._cells.items() if cell.layout.display == ""]
        assert word in visible and "precision" not in visible
    assert groups(studio.controls)["Optimiser"].layout.display == "none"
    studio.controls.search.value = ""
    assert not [cell for cell in studio.controls._cells.values() if cell.layout.display == "none"]
    assert not any(fold.button.value or fold.layout.display for fold in parts(studio.controls, Fold))


def test_folds_say_how_many_of_their_settings_are_changed(studio):
    cutouts, look = (groups(studio.controls)[heading].button for heading in ("Cutouts", "Look"))
    assert look.description == "Look (1 changed)", "a fixture starts without a draft, and so without fringes"
    put(studio, fringes=studio.controls.defaults["fringes"])
    assert (cutouts.description, look.description) == ("Cutouts (1 changed)", "Look"), "a fixture has fewer cutouts"
    put(studio, symmetry=0.5, padding="wrap")
    assert (cutouts.description, look.description) == ("Cutouts (2 changed)", "Look (1 changed)")
    put(studio, quality="draft", symmetry=0.0, padding="border")
    assert (cutouts.description, look.description) == ("Cutouts", "Look"), "a quality brings its own number of cutouts"


def test_settings_have_labels_in_words_and_their_names_beside(studio):
    labels = [label_of(field.name) for field in FIELDS]
    assert len({*labels}) == len(labels) and all(label[0].isupper() and "_" not in label for label in labels)
    for field in FIELDS:
        help = studio.controls._cells[field.name].children[1].value
        assert f"<summary><code>{field.name}</code></summary>" in help, "the help opens there"
        assert html.escape(field.metadata["help"]) in help
    assert control(studio.controls, "lr").description == "Learning rate"
    studio.controls.search.value = "lr_unit"
    assert groups(studio.controls)["Optimiser"].layout.display == ""


def test_eight_settings_at_first_sight():
    names = [field.name for field in FIELDS if field.metadata["section"] in ("steer", "basic")]
    assert len(names) == 8 and {"near", "tv", "steps", "seed", "size"} < {*names}
