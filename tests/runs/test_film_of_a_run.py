"""The film of a run: the draft row by row, then every step while much changes, then the end."""

import shutil

import numpy as np
import pytest
from PIL import Image, ImageSequence

import clipgen
from clipgen.runs.journal import Journal

SMALL = {"size": (64, 64), "cutouts": 4, "steps": 8, "progress": False}
ROWS = [(0, row) for row in range(1, 17)]


def places(rows):
    return [(row["step"], row.get("token_row")) for row in rows]


def pictures(journal):
    return [journal.picture(row).tobytes() for row in journal.film]


@pytest.mark.slow
def test_the_film_of_the_command_is_worth_watching(tmp_path):
    run = clipgen.generate("a red apple", folder=tmp_path, progress=False)
    film = run.journal.film
    assert places(film) == places(run.film)
    assert places(film)[:17] == [*ROWS, (1, None)] and [row["step"] for row in film[16:]] == [*range(1, run.step + 1)]
    assert [row for row in film if "token_row" not in row] == run.journal.scores
    tenth = np.asarray(run.journal.picture(film[9]))
    assert len(np.unique(tenth[80:].reshape(-1, 3), axis=0)) == 1, "what is not drawn is one grey"
    assert np.abs(tenth[:72].astype(int) - np.asarray(run.journal.picture(film[15]))[:72]).mean() < 4
    file = run.export(tmp_path / "apple.gif")
    assert file.stat().st_size < 1e6
    with Image.open(file) as gif:
        frames = [(frame.convert("RGB").tobytes(), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    assert len({picture for picture, _ in frames}) >= 24
    assert 3000 <= sum(milliseconds for _, milliseconds in frames) <= 5000 and frames[-1][1] >= 2000
    page = run.export(tmp_path / "apple.html").read_text()
    assert (
        page.index('alt="draft · row 1"') < page.index('alt="draft · row 16"') < page.index('alt="CLIP · step 1 · CLIP')
    )
    assert 'alt="CLIP · step 2"' in page and page.count("data-x=") == run.step, "a mark on the curve for each step"


def test_a_row_is_in_the_film_once_its_picture_can_be_read(tmp_path):
    class Readable(list):
        def append(self, row):
            assert run.journal.picture(row).size == (64, 64)
            super().append(row)

    run = clipgen.Run("a red apple", folder=tmp_path, size=(64, 64), cutouts=4, steps=4)
    run.film = Readable()
    assert clipgen.finish(run, progress=False).finished and places(run.film) == places(run.journal.film)


@pytest.mark.slow
def test_two_things_are_drawn_one_after_the_other(tmp_path):
    run = clipgen.generate("a cat and a dog", folder=tmp_path, **SMALL | {"steps": 1})
    assert places(run.film) == [(0, row) for row in range(1, 33)] + [(1, None)]
    half, whole = (np.asarray(run.journal.picture(run.film[i]), int) for i in (15, 31))
    change = np.abs(half - whole).mean((0, 2))
    assert change[:20].max() == 0 < change[40:].max(), "the cat is on the left, and stays"


@pytest.mark.slow
def test_the_film_is_the_same_when_the_draft_is_known_and_when_it_is_resumed(tmp_path):
    whole = clipgen.generate("a star", folder=tmp_path, **SMALL)
    film = pictures(whole.journal)
    stopped = clipgen.Run("a star", folder=tmp_path, **{name: SMALL[name] for name in ("size", "cutouts", "steps")})
    for frame in stopped:
        if frame.step == 3:
            break
    stopped.stop()
    list(stopped)
    assert len(stopped.film) < len(film)
    again = clipgen.Run.resume(stopped.journal.folder)
    list(again)
    assert pictures(again.journal) == film and places(again.film) == places(whole.film)


def test_fewer_frames_are_a_shorter_film_and_no_draft_is_none(tmp_path):
    few = clipgen.generate("a star", folder=tmp_path, **SMALL | {"every": 4})
    assert places(few.journal.film) == [*ROWS, (1, None), (4, None), (8, None)]
    plain = clipgen.generate("a star", folder=tmp_path, init="perlin", **SMALL)
    assert places(plain.journal.film) == [(1, None), (2, 0), (3, None), (4, 0), (5, 0), (6, None), (7, 0), (8, None)]


def test_a_run_folder_without_pictures_between_its_frames_goes_on(tmp_path):
    """As version 0.4 has written it."""
    run = clipgen.Run("a star", folder=tmp_path, **{name: SMALL[name] for name in ("size", "cutouts", "steps")})
    for frame in run:
        if frame.step == 3:
            run.stop()
    shutil.rmtree(run.journal.folder / "between")
    assert places(Journal.open(run.journal.folder).film) == [(1, None), (3, None)]
    again = clipgen.Run.resume(run.journal.folder)
    list(again)
    assert places(again.journal.film) == [(1, None), (3, None), (4, 0), (5, 0), (6, None), (7, 0), (8, None)]


def test_the_step_in_which_a_run_was_stopped_is_in_the_film_of_the_resumed_one(tmp_path):
    steps = []

    def stop_in_fifth(image, latent, step):
        steps.append(step)
        if steps == [0, 1, 2, 3, 4]:
            run.stop()
        return 0.0

    options = {"size": (64, 64), "cutouts": 4, "steps": 8, "init": "perlin", "folder": tmp_path}
    run = clipgen.Run("a star", losses=[stop_in_fifth], **options)
    assert [frame.step for frame in run] == [1, 3, 5]
    again = clipgen.Run.resume(run.journal.folder, losses=[stop_in_fifth], like=run)
    assert [frame.step for frame in again] == [6, 8]
    whole = clipgen.Run("a star", losses=[stop_in_fifth], like=run, **options)
    list(whole)
    assert again.journal.steps == whole.journal.steps == [1, 3, 6, 8]
    assert places(again.film) == places(again.journal.film) == places(whole.film)
    assert pictures(again.journal) == pictures(whole.journal)
