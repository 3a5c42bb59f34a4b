"""The Studio without a page: real runs of the embedded models in real threads."""

import ast
import base64
import io
import re
import subprocess
import sys
import threading
import time
from dataclasses import fields
from datetime import datetime
from pathlib import Path

import ipywidgets as widgets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import clipgen
from clipgen.prompts import Prompt, parse
from clipgen.settings import Settings
from clipgen.studio import rows
from clipgen.studio.parts import Brush, Webcam
from clipgen.studio.pictures import Picker, to_url
from clipgen.studio.worker import Job

COLABS = widgets.__version__.startswith("7.")  # ipywidgets as Colab has it
SMALL = {"size": (64, 64), "cutouts": 4, "every": 1}


@pytest.fixture
def studio(tmp_path):
    """A Studio for small pictures; whatever it runs ends with the test."""
    studio = clipgen.Studio("a red heart", folder=tmp_path, steps=8, **SMALL)
    yield studio
    studio.stop()
    studio.wait(60)


def until(true, what):
    """Wait for something that another thread does."""
    for _ in range(1200):
        if true():
            return
        time.sleep(0.05)
    pytest.fail(f"never happened: {what}")


def below(widget):
    """A widget and everything in it."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from below(child)


def named(widget, name):
    """The widgets with this description."""
    return [part for part in below(widget) if getattr(part, "description", None) == name]


def parts(widget, kind):
    return [part for part in below(widget) if isinstance(part, kind)]


def click(studio, name):
    named(studio, name)[0].click()


def running(studio, steps=5000):
    """A run that goes on until it is stopped, with a frame on the screen."""
    (knob,) = named(studio, "steps")
    knob.value = steps
    click(studio, "Generate")
    until(lambda: studio.preview.timeline.max > 2, "frames")
    return studio.job.run


def blue(size=(48, 32)):
    out = io.BytesIO()
    Image.new("RGB", size, (20, 60, 220)).save(out, "PNG")
    return out.getvalue()


def test_a_prompt_and_generate_are_enough(studio, tmp_path):
    click(studio, "Generate")
    run = studio.wait()
    assert run.finished and run.settings.prompt == "a red heart"
    assert studio.preview.timeline.value == studio.preview.timeline.max == 8
    with Image.open(io.BytesIO(studio.preview.image.value)) as shown:
        assert shown.format == "WEBP" and shown.size == (64, 64)
    status = studio.preview.status.value
    assert "step 8/8" in status and "s per iteration" in status and f"CLIP score {run.score:.3f}" in status
    assert studio.preview.curve.value.count(",") == 8
    assert "Done" in studio.preview.phase.value and not studio.preview.error.value
    assert named(studio.gallery, "Replay") and not named(studio.gallery, "Resume")


@pytest.mark.parametrize("suffix", ["GIF", "MP4", "WebP", "PNG"])
def test_every_format_gets_a_link(studio, suffix):
    click(studio, "Generate")
    studio.wait()
    named(studio, "Format")[0].value = suffix
    click(studio, "Export")
    (file,) = studio.job.run.journal.folder.glob(f"*.{suffix.lower()}")
    (data,) = re.findall(rf'download="a-red-heart.{suffix.lower()}" href="data:\w+/\w+;base64,(.*?)"',
                         studio.exporter.link.value)  # fmt: skip
    assert base64.b64decode(data) == file.read_bytes()


def test_every_setting_has_its_widget_and_its_help(studio):
    asked = studio.controls.asked
    assert Settings(**asked) == Settings("a red heart", steps=8, **SMALL)
    for knob in fields(Settings)[1:]:
        (widget,) = named(studio.controls, knob.name)
        tooltip = "description_tooltip" if COLABS else "tooltip"
        assert getattr(widget, tooltip) == knob.metadata["help"]


def test_quality_sets_what_it_stands_for(studio):
    named(studio, "quality")[0].value = "best"
    assert studio.controls.asked["steps"] == 300 and studio.controls.asked["cutouts"] == 32


def test_steering(studio):
    run = running(studio)
    named(studio, "Prompt 1")[0].value = "a green tree"
    named(studio, "Weight 1")[0].value = 2.0
    named(studio, "lr")[0].value = 0.05
    until(lambda: run.settings.lr == 0.05 and run.settings.prompt == "a green tree:2", "the change")
    assert set().union(*run.journal.changes) - {"step"} == {"prompt", "lr"}, "only what was changed is asked for"

    named(studio, "Prompt 1")[0].value = "a tree @9-3"
    until(lambda: "a span ends after it begins" in studio.preview.error.value, "the remedy")
    named(studio, "Prompt 1")[0].value = "a blue tree"
    until(lambda: run.settings.prompt == "a blue tree:2" and not studio.preview.error.value, "the change after it")
    assert studio.job.alive


def test_the_timeline_follows_or_stays(studio):
    running(studio)
    timeline = studio.preview.timeline
    before = timeline.max
    until(lambda: timeline.value == timeline.max > before, "following")
    timeline.value = 2
    stayed, before = studio.preview.image.value, timeline.max
    until(lambda: timeline.max > before + 2, "more frames")
    assert timeline.value == 2 and studio.preview.image.value == stayed and studio.preview.shown[1] == 2
    timeline.value = timeline.max
    before = timeline.max
    until(lambda: timeline.value == timeline.max > before, "following again")


def test_pause_stop_and_resume_from_the_gallery(studio):
    run = running(studio)
    click(studio, "Pause")
    until(lambda: "Paused" in studio.preview.phase.value, "the pause")
    time.sleep(0.3)
    step = run.step
    time.sleep(0.5)
    assert run.step == step and not named(studio, "Pause")
    click(studio, "Resume")
    until(lambda: run.step > step, "going on")
    click(studio, "Stop")
    studio.wait()
    assert "Stopped" in studio.preview.phase.value and not studio._generate.disabled
    stopped = run.journal.steps[-1]
    click(studio.gallery, "Resume")
    until(lambda: studio.job.run and studio.job.run.step > stopped, "the resumed run")
    assert studio.job.run.journal.folder == run.journal.folder


def test_a_branch_starts_from_the_shown_frame(studio):
    click(studio, "Generate")
    first = studio.wait()
    studio.preview.timeline.value = 3
    named(studio, "Prompt 1")[0].value = "a blue heart"
    click(studio, "Branch from here")
    branch = studio.wait()
    assert branch is not first and branch.finished and branch.generator is first.generator, "models are shared"
    (tokens,) = branch.journal.inputs().values()
    assert (tokens == first.journal.tokens(3)).all() and branch.settings.prompt == "a blue heart"


def test_errors_are_shown_and_the_studio_goes_on(studio, monkeypatch):
    init = named(studio, "init")[0]
    init.value = "nowhere.png"
    click(studio, "Generate")
    with pytest.raises(clipgen.ClipgenError):
        studio.wait()
    said = studio.preview.error.value
    assert "no such file; check the path" in said and "Traceback" not in said
    named(studio, "size")[0].value = "large"
    click(studio, "Generate")
    assert "write width x height" in studio.preview.error.value
    named(studio, "size")[0].value = "64x64"
    init.value = "auto"

    def broken(*_):
        raise RuntimeError("<out of memory>")

    with monkeypatch.context() as patch:
        patch.setattr(clipgen.Run, "_loop", broken)
        click(studio, "Generate")
        with pytest.raises(RuntimeError):
            studio.wait()
    said = studio.preview.error.value
    assert "RuntimeError: &lt;out of memory&gt;" in said and "<details><summary>Traceback" in said

    click(studio, "Generate")
    assert studio.wait().finished and not studio.preview.error.value


def test_a_new_studio_stops_the_run_of_the_one_before(studio, tmp_path):
    run = running(studio)
    second = clipgen.Studio("a star", folder=tmp_path, steps=4, **SMALL)
    assert studio.wait() is run and not run.finished
    second.generate()
    assert second.wait().finished and second.job.run.perceptors is run.perceptors
    assert named(second.gallery, "Resume")
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("clipgen ")], "the end of all threads")


def test_a_slow_line_does_not_slow_the_run(tmp_path):
    free, told = threading.Event(), []

    def tell(job):
        told.append(job.film[1])
        free.wait(60)

    job = Job(lambda like: clipgen.Run("a star", folder=tmp_path, steps=6, **SMALL), tell)
    until(lambda: not job.alive, "the end of the run, while its first news is still under way")
    assert job.run.finished and len(told) == 1
    free.set()
    job.join()
    assert [step for step, _ in told[-1]] == [1, 2, 3, 4, 5, 6], "the newest is told"


def test_a_run_can_be_stopped_while_its_models_load(tmp_path):
    loading, wanted = threading.Event(), threading.Event()

    def make(like):
        loading.set()
        wanted.wait(60)
        return clipgen.Run("a star", folder=tmp_path, steps=5000, **SMALL)

    job = Job(make, lambda job: None)
    loading.wait(60)
    assert job.phase.startswith("Loading")
    job.stop()
    wanted.set()
    job.join()
    assert job.phase == "Stopped" and job.run.step == 0


def test_enter_starts_a_run_when_none_goes_on(studio):
    (prompt,) = named(studio, "Prompt 1")
    prompt._handle_string_msg(prompt, {"event": "submit"}, [])
    job = studio.job
    prompt._handle_string_msg(prompt, {"event": "submit"}, [])
    assert job is studio.job is not None
    assert studio.wait().finished


def test_rows_are_added_numbered_and_removed(studio):
    for text in ("two", "three"):
        click(studio, "Add prompt")
        named(studio, f"Prompt {len(named(studio, 'Remove'))}")[0].value = text
    named(studio, "Weight 3")[0].value = -0.5
    assert studio.controls.rows.line == "a red heart | two | three:-0.5"
    assert [button.tooltip for button in named(studio, "Remove")] == [f"Remove prompt {n}" for n in (1, 2, 3)]
    named(studio, "Remove")[1].click()
    assert studio.controls.rows.line == "a red heart | three:-0.5" and named(studio, "Weight 2")[0].value == -0.5


def test_the_dice_change_the_seed(studio):
    seeds = set()
    for _ in range(5):
        click(studio, "Dice")
        seeds.add(studio.controls.asked["seed"])
    assert len(seeds) > 1


def upload(picker, name, content):
    """What the page sends after a file was chosen."""
    if COLABS:
        picker._upload.set_trait("value", {name: {"metadata": {"name": name}, "content": content}})
    else:
        file = {"name": name, "type": "", "size": len(content), "content": memoryview(content)}
        picker._upload.set_trait("value", (file | {"last_modified": datetime.now()},))


def test_a_picture_as_a_prompt(studio, tmp_path):
    (picker,) = parts(studio.controls.rows, Picker)
    upload(picker, "my photo:1.png", blue())
    (prompt,) = parse(studio.controls.rows.line)
    assert prompt.is_image and Path(prompt.text).parent == tmp_path / "uploads" and prompt.weight == 1
    assert picker._thumbnail.value
    named(studio, "Weight 1")[0].value = 3.0
    click(studio, "Generate")
    assert studio.wait().prompts == [Prompt(prompt.text, 3.0)]
    upload(picker, "words.png", b"no picture")
    assert "cannot be read as a picture" in studio.preview.error.value


def test_a_start_from_the_webcam_and_a_painted_mask(studio):
    (webcam,), (brush,) = parts(studio, Webcam), parts(studio, Brush)
    webcam.picture = to_url(blue(), "image/png")  # as webcam.js sets it
    named(studio, "steps")[0].value = 2
    click(studio, "Generate")
    run = studio.wait()
    assert Path(run.settings.init).name.startswith("webcam-")
    assert run.journal.inputs()[run.settings.init].getpixel((5, 5)) == (20, 60, 220)

    named(studio, "Paint a mask")[0].value = True
    assert brush.ground.startswith("data:image/webp;base64,") and brush.layout.display == ""
    white = io.BytesIO()
    Image.new("L", (64, 64), 255).save(white, "PNG")
    brush.mask = to_url(white.getvalue(), "image/png")
    assert Path(studio.controls.asked["mask"]).name.startswith("mask-")
    brush.mask = ""
    assert studio.controls.asked["mask"] == ""


def test_earlier_runs_are_opened_and_replayed(tmp_path):
    old = clipgen.generate([Image.open(io.BytesIO(blue())), "a fish:-0.5"], steps=3, folder=tmp_path,
                           progress=False, **SMALL)  # fmt: skip
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "settings.json").write_text("{")
    studio = clipgen.Studio(folder=tmp_path, **SMALL)
    assert len(named(studio.gallery, "Open")) == 1
    click(studio.gallery, "Open")
    assert studio.preview.timeline.max == 3 and "step 3/3" in studio.preview.status.value
    picture, fish = parse(studio.controls.rows.line)
    assert Path(picture.text).is_file() and fish == Prompt("a fish", -0.5), "the picture has a file of its own now"
    assert named(studio, "Weight 2")[0].value == -0.5
    click(studio.gallery, "Replay")
    again = studio.wait()
    assert again.journal.folder != old.journal.folder and again.image.tobytes() == old.image.tobytes()


@given(st.text("ab1 :|@[]-.", min_size=1).map(str.strip).filter(lambda text: text and "]" not in text),
       st.floats(-9, 9), st.one_of(st.just(-float("inf")), st.floats(0, 1)),
       st.sampled_from([(0, float("inf")), (3, 9), (2, float("inf"))]), st.sampled_from(["", "top"]))  # fmt: skip
def test_what_is_written_is_what_was_parsed(text, weight, stop, span, where):
    prompt = Prompt(text, float(f"{weight:g}"), float(f"{stop:g}"), span, where)
    assert rows.prompts_in(rows.written(prompt)) == [prompt]


def test_a_slider_multiplies_the_weights_of_its_row():
    assert parse(rows.scaled("a cat:2 @0-9 | a dog:-1:0.5", 0.5)) == [
        Prompt("a cat", 1.0, span=(0, 9)), Prompt("a dog", -0.5, 0.5)
    ]  # fmt: skip
    assert rows.parted("a cat:2 | a dog:-0.5 | a bee:7 [top]") == [("a cat", 2), ("a dog", -0.5), ("a bee [top]:7", 1)]


def test_the_studio_imports_no_torch_itself():
    folder = Path(clipgen.__file__).parent / "studio"
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.partition(".")[0] == "torch"], file


def test_python_can_end_while_a_run_goes_on(tmp_path):
    script = """
import time, clipgen
studio = clipgen.Studio("a star", steps=5000)
studio.generate()
while not studio.job.frame:
    time.sleep(0.1)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "clipgen-runs").glob("*/settings.json")
    assert clipgen.Run.resume(folder.parent).step > 0
