"""The Studio without a page: real runs of the embedded models in real threads."""

import ast
import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from studio_hands import SMALL, click, control, named, put, running, until

import clipgen


def test_a_prompt_and_generate_are_enough(studio, tmp_path):
    click(studio, "Generate")
    run = studio.wait()
    assert run.finished and run.settings.prompt == "a red heart"
    assert studio.preview.timeline.value == studio.preview.timeline.max == 8
    with Image.open(io.BytesIO(studio.preview.image.value)) as shown:
        assert shown.format == "JPEG" and shown.size == (64, 64)
    status = studio.preview.status.value
    assert "step 8/8" in status and "s per iteration" in status and f"CLIP score {run.score:.3f}" in status
    assert studio.preview.curve.value.count(",") == 8
    assert "Done" in studio.preview.phase.value and not studio.preview.error.value
    assert named(studio.gallery, "Replay") and not named(studio.gallery, "Resume")


@pytest.mark.slow
def test_a_seamless_picture_is_shown_beside_itself(studio):
    (nine,) = named(studio, "Preview 3 x 3 tiles")
    put(studio, init="perlin", steps=2)
    click(studio, "Generate")
    studio.wait()
    assert nine.layout.display == "none", "only where it has no seam"
    put(studio, generator="mini-vqgan", tile=True)
    click(studio, "Generate")
    run = studio.wait()
    assert nine.layout.display == ""
    nine.value = True
    with Image.open(io.BytesIO(studio.preview.image.value)) as shown:
        assert shown.size == (192, 192)
        for box in ((0, 0, 64, 64), (64, 0, 128, 64), (128, 128, 192, 192)):
            apart = np.asarray(shown.crop(box), float) - np.asarray(run.image, float)
            assert abs(apart).mean() < 6, "up to JPEG's losses"
    nine.value = False
    with Image.open(io.BytesIO(studio.preview.image.value)) as shown:
        assert shown.size == (64, 64)


def test_steering(studio):
    run = running(studio)
    named(studio, "Prompt 1")[0].value = "a green tree"
    named(studio, "Weight 1")[0].value = 2.0
    put(studio, lr=0.05)
    until(lambda: run.settings.lr == 0.05 and run.settings.prompt == "a green tree:2", "the change")
    assert set().union(*run.journal.changes) - {"step"} == {"prompt", "lr"}, "only what was changed is asked for"

    named(studio, "Prompt 1")[0].value = "a tree @9-3"
    until(lambda: "a span must end after it begins" in studio.preview.error.value, "the remedy")
    named(studio, "Prompt 1")[0].value = "a blue tree"
    until(lambda: run.settings.prompt == "a blue tree:2" and not studio.preview.error.value, "the change after it")
    assert studio.job.is_alive


@pytest.mark.slow
def test_what_suits_another_generator_is_for_the_next_run(studio):
    run = running(studio)
    put(studio, quality="best", steps=7)
    time.sleep(0.5)
    assert studio.controls.live_values["cutouts"] == 32
    put(studio, lr=0.05)
    until(lambda: run.settings.lr == 0.05, "the change")
    assert run.settings.cutouts == 4 and set().union(*run.journal.changes) == {"step", "lr"}
    put(studio, cutouts=3)
    until(lambda: run.settings.cutouts == 3, "what a person asked for")


@pytest.mark.slow
def test_the_timeline_follows_or_stays(studio):
    running(studio)
    timeline = studio.preview.timeline
    before = timeline.max
    until(lambda: timeline.value == timeline.max > before, "following")
    timeline.value = 2
    stayed, before = studio.preview.image.value, timeline.max
    until(lambda: timeline.max > before + 2, "more frames")
    assert timeline.value == 2 and studio.preview.image.value == stayed and studio.preview.position[1] == 2
    timeline.value = timeline.max
    before = timeline.max
    until(lambda: timeline.value == timeline.max > before, "following again")


@pytest.mark.slow
def test_pause_stop_and_resume_from_the_gallery(studio):
    run = running(studio)
    click(studio, "Pause")
    until(lambda: "Paused" in studio.preview.phase.value, "the pause")
    time.sleep(2)  # the step in the making
    step = run.step
    time.sleep(1)
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


@pytest.mark.slow
def test_a_branch_starts_from_the_shown_frame(studio):
    click(studio, "Generate")
    first = studio.wait()
    studio.preview.timeline.value = 3
    named(studio, "Prompt 1")[0].value = "a blue heart"
    click(studio, "Branch from here")
    branch = studio.wait()
    assert branch is not first and branch.finished and branch.models is first.models, "models are shared"
    (tokens,) = branch.journal.inputs().values()
    assert (tokens == first.journal.latent(3)).all() and branch.settings.prompt == "a blue heart"


@pytest.mark.slow
def test_a_picture_that_grows(studio):
    text = "32x32@0-4, 64x64@4-"
    put(studio, size=text, init="perlin")
    click(studio, "Generate")
    run = studio.wait()
    for frame, side in ((8, 64), (4, 32)):
        studio.preview.timeline.value = frame
        assert studio.preview.picture.size == (side, side)
        assert Image.open(io.BytesIO(studio.preview.image.value)).size == (side, side), "as wide on the page"
    click(studio, "Export")
    (film,) = run.journal.folder.glob("*.gif")
    with Image.open(film) as made:
        assert made.size == (256, 256) and made.n_frames == 8
    click(studio, "Branch from here")
    assert studio.wait().settings.size == (32, 32)
    studio.view(run.journal.folder)
    assert control(studio.controls, "size").value == text


@pytest.mark.slow
def test_errors_are_shown_and_the_studio_goes_on(studio, monkeypatch):
    put(studio, init="nowhere.png")
    click(studio, "Generate")
    with pytest.raises(clipgen.ClipgenError):
        studio.wait()
    said = studio.preview.error.value
    assert "no such file; check the path" in said and "Traceback" not in said
    put(studio, size="large")
    click(studio, "Generate")
    assert "write width x height" in studio.preview.error.value
    put(studio, size="64x64", init="auto")

    def broken(*_):
        raise RuntimeError("<out of memory>")

    with monkeypatch.context() as patch:
        patch.setattr(clipgen.Run, "__iter__", broken)
        click(studio, "Generate")
        with pytest.raises(RuntimeError):
            studio.wait()
    said = studio.preview.error.value
    assert "RuntimeError: &lt;out of memory&gt;" in said and "<details><summary>Traceback" in said

    click(studio, "Generate")
    assert studio.wait().finished and not studio.preview.error.value


@pytest.mark.slow
def test_a_new_studio_stops_the_run_of_the_one_before(studio, tmp_path):
    run = running(studio)
    second = clipgen.Studio("a star", folder=tmp_path, steps=4, **SMALL)
    assert studio.wait() is run and not run.finished
    second.generate()
    assert second.wait().finished and second.job.run.models is run.models
    assert named(second.gallery, "Resume")
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("clipgen ")], "the end of all threads")


def test_enter_starts_a_run_when_none_goes_on(studio):
    (prompt,) = named(studio, "Prompt 1")
    prompt._handle_string_msg(prompt, {"event": "submit"}, [])
    job = studio.job
    prompt._handle_string_msg(prompt, {"event": "submit"}, [])
    assert job is studio.job is not None
    assert studio.wait().finished


def test_the_studio_imports_no_torch_itself():
    folder = Path(clipgen.__file__).parent / "studio"
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.partition(".")[0] == "torch"], file


@pytest.mark.slow
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
