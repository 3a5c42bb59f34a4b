"""Colab's own widget manager, on the packages that it is built of, against a kernel with Colab's ipywidgets."""

import io
import re
from functools import partial

import pytest
from PIL import Image
from playwright.sync_api import expect
from shared_places import REPORTS
from studio_page import StudioPage

from clipgen.studio.controls import FIELDS, SECTIONS, label_of

pytestmark = pytest.mark.slow
BEGIN = """
import shutil
import clipgen
shutil.rmtree("clipgen-runs", ignore_errors=True)
studio = clipgen.Studio("a red apple", steps=9, size=(64, 64), cutouts=4, every=1)

def below(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from below(child)

studio
"""
# The names of those widgets that have no view in the document.
MISSING = """async named => {
    const missing = [];
    for (const [id, name] of named) {
        const views = Object.values((await colab.manager.get_model(id)).views ?? {});
        const places = await Promise.all(views).catch(() => []);
        if (!places.some(view => view.el.isConnected)) missing.push(name);
    }
    return missing;
}"""


@pytest.fixture
def colab(shared_colab):
    """An empty page, with the kernel of the tests before."""
    shared_colab.evaluate("document.querySelectorAll('section').forEach(it => it.remove())")
    shared_colab.set_viewport_size({"width": 1280, "height": 1800})
    shared_colab.emulate_media(color_scheme="light")
    shared_colab.said.clear()
    return shared_colab


@pytest.fixture
def studio(colab):
    """A Studio on the page, all of it unfolded."""
    colab.evaluate("code => colab.run(code)", BEGIN)
    studio = StudioPage(colab)
    for section in [*SECTIONS][2:]:
        studio.button(SECTIONS[section]).click()
    return studio


@pytest.fixture
def ask(colab):
    """``ask(expression)``: its value in the kernel."""
    return lambda expression: colab.evaluate("expression => colab.ask(expression)", expression)


def test_everything_is_drawn(studio, colab, ask):
    """Every widget has its view, and every control its place on the screen."""
    named = ask('[(w.model_id, f\'{type(w).__name__} {getattr(w, "description", "")}\') for w in below(studio)]')
    assert len(named) > 100
    assert colab.evaluate(MISSING, named) == []
    controls = studio.root.locator("input:not([type=file]), select, button, textarea, .noUi-handle")
    shown = [
        control for control in controls.all() if not control.evaluate("it => it.closest('[style*=\"display: none\"]')")
    ]
    assert len(shown) > 60
    for control in shown:
        expect(control).to_be_visible()
        box = control.bounding_box()
        assert box and box["width"] > 8 and box["height"] > 8, control.evaluate("it => it.outerHTML")
    assert not [line for line in colab.said if line.startswith(("pageerror", "error"))], colab.said
    colab.screenshot(path=REPORTS / "colab-unfolded.png", full_page=True)
    colab.emulate_media(color_scheme="dark")
    colab.screenshot(path=REPORTS / "colab-dark.png", full_page=True)
    colab.set_viewport_size({"width": 500, "height": 900})
    assert colab.evaluate("document.documentElement.scrollWidth") <= 500, "nothing is cut off on a narrow page"
    colab.screenshot(path=REPORTS / "colab-narrow.png", full_page=True)


def change(studio, name, kind, before):
    """Give a setting another value, as a person would."""
    label = label_of(name)
    field = studio.root.get_by_label(label, exact=True).first
    if kind == "Dial":
        handle = studio.root.locator(".widget-slider", has_text=label).locator(".noUi-handle")
        handle.click()
        handle.press("ArrowRight")
    elif kind == "Dropdown":
        options = field.locator("option").all_inner_texts()
        field.select_option(next(option for option in options if option != before))
    elif kind == "Checkbox":
        field.click()
    else:
        field.fill("3" if kind.startswith("Bounded") else "0.5" if before != "0.5" else "0.25")
        field.press("Tab")


def test_every_setting_reaches_the_kernel(studio, ask):
    kinds = ask("{name: type(widget).__name__ for name, widget in studio.controls.inputs.items()}")
    assert kinds.keys() == FIELDS.keys()
    for name, kind in kinds.items():
        value = partial(ask, f"studio.controls.inputs[{name!r}].value")
        before = value()
        change(studio, name, kind, before)
        studio.wait_for(partial(lambda value, before: value() != before, value, before))
        expect(studio.root).to_contain_text(FIELDS[name].metadata["help"])


def test_rows_dice_and_models(studio, ask):
    studio.button("Add prompt").click()
    studio.fill("Prompt 2", "a worm")
    studio.wait_for(lambda: ask("studio.controls.rows.line") == "a red apple | a worm")
    handle = studio.root.locator(".widget-slider", has_text="Weight 2").locator(".noUi-handle")
    handle.click()
    for _ in range(5):
        handle.press("ArrowLeft")
    studio.wait_for(lambda: re.fullmatch(r"a red apple \| a worm:0\.5", ask("studio.controls.rows.line")))
    studio.root.get_by_title("Remove prompt 2").click()
    studio.wait_for(lambda: ask("studio.controls.rows.line") == "a red apple")
    seed = ask("studio.controls.values['seed']")
    studio.button("Random seed").click()
    studio.wait_for(lambda: ask("studio.controls.values['seed']") != seed)

    models = studio.root.get_by_label("Models", exact=True)
    expect(models.locator("option:checked")).to_have_text("Built-in")
    models.select_option(label="VQGAN OpenImages (982 MB)")
    studio.wait_for(lambda: ask("studio.controls.values['generator']") == "vqgan_openimages_f8_8192")
    assert ask("studio.controls.values['perceptor']") == "ViT-B-32/openai"
    expect(studio.root).to_contain_text("Downloads 982 MB on first use")
    models.select_option(label="Built-in")
    studio.wait_for(lambda: ask("studio.controls.values['perceptor']") == "mini")


def picture(size, colour):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def test_pictures_come_in(studio, colab, ask):
    """Uploads, the webcam and the brush: what is not ipywidgets' own."""
    studio.choose("Start picture", "sea.png", picture((40, 30), (20, 60, 220)))
    field = studio.root.get_by_label("Start from", exact=True)
    expect(field).to_have_value(re.compile("uploads/sea-.+png"))
    noise = Image.effect_noise((3000, 2000), 90).convert("RGB")
    out = io.BytesIO()
    noise.save(out, "PNG")
    assert len(out.getvalue()) > 5e6
    studio.choose("Mask picture", "large.png", out.getvalue())
    expect(studio.root.get_by_label("Mask", exact=True)).to_have_value(re.compile("uploads/large-.+png"))
    with Image.open(ask("__import__('os').path.abspath(studio.controls.values['mask'])")) as kept:
        assert kept.size == (2048, 1365), "it was made smaller on its way"
    studio.fill("Mask", "")
    studio.choose("Picture", "worm.png", picture((40, 30), (20, 60, 220)))
    expect(studio.root.get_by_label("Prompt 1", exact=True)).to_have_value(re.compile("uploads/worm-.+png"))
    studio.choose("Picture", "words.png", b"no picture")
    expect(studio.root.locator(".clipgen-error")).to_contain_text("cannot be read as a picture")

    studio.button("Start camera").click()
    expect(studio.button("Take picture")).to_be_enabled()
    studio.button("Take picture").click()
    expect(field).to_have_value(re.compile("uploads/webcam-.+png"))

    studio.generate("a red heart", steps=9)
    expect(studio.root).to_contain_text("Done")
    studio.button("Paint a mask").click()
    canvas = studio.root.get_by_label("Paint a mask", exact=True)
    expect(canvas).to_be_visible()
    box = canvas.bounding_box()
    colab.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2)
    colab.mouse.down()
    colab.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] / 2)
    colab.mouse.up()
    expect(studio.root.get_by_label("Mask", exact=True)).to_have_value(re.compile("uploads/mask-.+png"))
    studio.button("Clear mask").click()
    expect(studio.root.get_by_label("Mask", exact=True)).to_have_value("")
    studio.button("Paint a mask").click()
    studio.button("Branch from here").click()
    studio.wait_for(lambda: len(ask("[str(f) for f in studio.folder.glob('*/settings.json')]")) == 2)
    expect(studio.root).to_contain_text("Done")
    expect(studio.root.locator(".clipgen-card")).to_have_count(2)
    thumbnails = studio.root.locator(".clipgen-card img")
    studio.wait_for(lambda: min(thumbnails.evaluate_all("them => them.map(it => it.naturalWidth)")) > 0)


def test_a_judge_and_what_clip_sees(studio, colab, ask):
    """A second curve, the way to the best frame, and the sheet of a frame's views."""
    studio.fill("Judge", "evaluator")
    studio.wait_for(lambda: ask("studio.controls.values['judge']") == "evaluator")
    studio.generate("a red heart", steps=9)
    expect(studio.root).to_contain_text("Done")
    expect(studio.root.locator(".clipgen-curve polyline")).to_have_count(2)
    expect(studio.root).to_contain_text("dashed: the judge")
    studio.button("Best frame").click()
    studio.wait_for(lambda: ask("studio.preview.position[1] == studio.job.run.best.step"))
    studio.button("What CLIP sees").click()
    studio.button("Show the cutouts").click()
    sheet = studio.root.locator("img.clipgen-views")
    expect(sheet).to_be_visible()
    studio.wait_for(lambda: sheet.evaluate("it => it.naturalWidth") > 400)
    assert sheet.bounding_box()["width"] > 300
    expect(studio.root).to_contain_text(re.compile(r"Step \d: 4 cutouts, CLIP score"))
    colab.screenshot(path=REPORTS / "colab-views.png", full_page=True)


def test_why_it_has_neither_accordions_nor_uploads(colab, ask):
    """What is known not to work in Colab does not work on this page either."""
    code = "import ipywidgets\nfolded = ipywidgets.Accordion([ipywidgets.Text('inside')])\nfolded.set_title(0, 'Title')"
    colab.evaluate("code => colab.run(code)", f"{code}\nfolded")
    colab.evaluate(
        "code => colab.run(code)", "upload = ipywidgets.FileUpload()\nslider = ipywidgets.IntSlider(1, 1, 1)\nupload"
    )
    with colab.expect_file_chooser() as chooser:
        colab.locator("button", has_text="Upload").click()
    chooser.value.set_files({"name": "sea.png", "mimeType": "image/png", "buffer": picture((4, 3), (20, 60, 220))})
    expect(colab.locator("button", has_text="Upload (1)")).to_be_visible()
    assert ask("[len(upload.value), len(upload.data)]") == [0, 0]
    assert colab.evaluate(MISSING, [[ask("folded.model_id"), "Accordion"]]) == ["Accordion"]
    assert any("titles" in line or "Could not create a view" in line for line in colab.said), colab.said


FILM = """
import time
import clipgen
import numpy
from PIL import Image

studio.generate()
journal = studio.wait().journal
noise = [Image.fromarray(numpy.random.default_rng(i).integers(0, 256, (512, 512, 3), numpy.uint8)) for i in range(4)]
begin = time.monotonic()
for i in range(100):
    frame = clipgen.Frame(i + 1, noise[i % 4], {})
    studio.preview.show(journal, [{"step": step + 1, "clip": 0.5} for step in range(i + 1)], frame, more=True)
    time.sleep(max(0, begin + (i + 1) / 20 - time.monotonic()))
seconds = time.monotonic() - begin
"""


def test_a_fast_film_leaves_room_on_the_line(studio, colab, ask, report):
    """Twenty noisy pictures a second of 512x512: what reaches the page. tests/studio/test_line.py has the clock."""
    colab.evaluate("colab.bytes.length = 0")
    colab.evaluate("code => colab.run(code)", FILM)
    received, seconds = sum(size for _, size in colab.evaluate("colab.bytes")), ask("seconds")
    report("megabytes a second", received / seconds / 1e6)
    assert 100_000 * seconds < received < 1_000_000 * seconds
