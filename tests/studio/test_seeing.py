"""The judge's curve, the best frame, and the views of the shown frame."""

import io

import pytest
from PIL import Image
from studio_hands import below, click, control, named, put, until

from clipgen.studio.pictures import encode
from clipgen.studio.seeing import LONGEST


def looked(studio):
    """Ask for the views of the shown frame, and wait for them."""
    click(studio, "Show its views")
    until(lambda: not studio.seeing.look.disabled, "the views")
    return studio.seeing.note.value


def test_a_judge_has_a_curve_of_its_own(studio):
    put(studio, init="perlin", judge="evaluator", patience=5000, keep="best")
    click(studio, "Generate")
    run = studio.wait()
    assert "judge" in run.journal.scores[-1] and run.settings.patience == 5000
    assert studio.preview.curve.value.count("<polyline") == 2 and "dashed: the judge" in studio.preview.curve.value
    assert f"judge {run.journal.scores[-1]['judge']:.3f}" in studio.preview.status.value
    studio.preview.timeline.value = 1
    click(studio, "Best frame")
    assert studio.preview.shown[1] == run.best.step == max(run.journal.scores, key=lambda row: row["judge"])["step"]
    assert studio.preview.picture.tobytes() == run.image.tobytes() == run.best.image.tobytes()


@pytest.mark.slow
def test_the_views_of_the_shown_frame(studio, tmp_path):
    (button,) = named(studio, "What CLIP sees")
    assert button.icon == "caret-right" and studio.seeing.look.disabled, "closed, and nothing to look at"
    button.value = True
    assert studio.seeing in below(studio)
    put(studio, init="perlin")
    click(studio, "Generate")
    run = studio.wait()
    studio.preview.timeline.value = 5
    assert "Step 5: 4 views, CLIP score" in looked(studio)
    sheet = run.views(5, progress=False).sheet()
    assert studio.seeing.image.value == encode(sheet, LONGEST) and studio.seeing.image.layout.display == ""
    with Image.open(io.BytesIO(studio.seeing.image.value)) as shown:
        assert shown.width > 400

    control(studio.controls, "seed").value = 5
    click(studio, "Generate")
    other = studio.wait()
    studio.view(run.journal.folder)
    studio.preview.timeline.value = 5
    before, studio.seeing.image.value = studio.seeing.image.value, b""
    looked(studio)
    assert studio.seeing.image.value == before, "of an earlier run"
    assert studio.seeing._run.models is other.models and studio.seeing._run.step == 8, "which was not begun again"
    (run.journal.folder / "state.safetensors").write_text("x")
    studio.seeing._run = None
    assert "views" not in looked(studio) and "the state is damaged" in studio.preview.error.value
