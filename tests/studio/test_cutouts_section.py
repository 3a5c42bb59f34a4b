"""The judge's curve, the best frame, and the views of the shown frame."""

import io

import pytest
from PIL import Image
from studio_hands import below, click, control, named, put, until

from clipgen.studio.parts import to_jpeg
from clipgen.studio.sections import SHEET_SIDE


def looked(studio):
    """Ask for the views of the shown frame, and wait for them."""
    click(studio, "Show the cutouts")
    until(lambda: not studio.cutouts.show_button.disabled, "the views")
    return studio.cutouts.note.value


@pytest.mark.slow
def test_a_judge_has_a_curve_of_its_own(studio):
    put(studio, init="perlin", judge="evaluator", patience=5000, keep="best")
    click(studio, "Generate")
    run = studio.wait()
    assert "judge" in run.journal.scores[-1] and run.settings.patience == 5000
    assert studio.preview.curve.value.count("<polyline") == 2 and "dashed: the judge" in studio.preview.curve.value
    assert f"judge {run.journal.scores[-1]['judge']:.3f}" in studio.preview.status.value
    studio.preview.timeline.value = 1
    click(studio, "Best frame")
    assert studio.preview.position[1] == run.best.step == max(run.journal.scores, key=lambda row: row["judge"])["step"]
    assert studio.preview.picture.tobytes() == run.image.tobytes() == run.best.image.tobytes()


@pytest.mark.slow
def test_the_views_of_the_shown_frame(studio, tmp_path):
    (button,) = named(studio, "What CLIP sees")
    assert button.icon == "caret-right" and studio.cutouts.show_button.disabled, "closed, and nothing to look at"
    button.value = True
    assert studio.cutouts in below(studio)
    put(studio, init="perlin")
    click(studio, "Generate")
    run = studio.wait()
    studio.preview.timeline.value = 5
    assert "Step 5: 4 cutouts, CLIP score" in looked(studio)
    sheet = run.views(5, progress=False).sheet()
    assert studio.cutouts.image.value == to_jpeg(sheet, SHEET_SIDE) and studio.cutouts.image.layout.display == ""
    with Image.open(io.BytesIO(studio.cutouts.image.value)) as shown:
        assert shown.width > 400

    control(studio.controls, "seed").value = 5
    click(studio, "Generate")
    other = studio.wait()
    studio.view(run.journal.folder)
    studio.preview.timeline.value = 5
    before, studio.cutouts.image.value = studio.cutouts.image.value, b""
    looked(studio)
    assert studio.cutouts.image.value == before, "of an earlier run"
    assert studio.cutouts._run.models is other.models and studio.cutouts._run.step == 8, "which was not begun again"
    (run.journal.folder / "state.safetensors").write_text("x")
    studio.cutouts._run = None
    assert "views" not in looked(studio) and "the state is damaged" in studio.preview.error.value
