"""A notebook's cell is run again and again: of the Studio before nothing is left, and one Studio does not grow."""

import gc
import threading
import weakref

import comm
import pytest
from ipywidgets.widgets import widget as registry

import clipgen

SMALL = {"generator": "pixels", "init": "random", "size": (32, 32), "cutouts": 2, "steps": 2, "every": 1}


@pytest.fixture(autouse=True)
def nothing_before_and_after():
    """The Studios of other tests, and those of this one."""
    end()
    yield
    end()


def end():
    if clipgen.Studio._newest_job:
        clipgen.Studio._newest_job.stop()
        clipgen.Studio._newest_job.join(60)
    for thread in working():
        thread.join(60)


def widgets():
    return len(registry._instances)


def channels():
    return len(comm.get_comm_manager().comms)


def working():
    return [thread for thread in threading.enumerate() if thread.name.startswith("clipgen ")]


def test_a_cell_that_is_run_again_leaves_nothing_of_the_studio_before(tmp_path):
    counts, studios = [], []
    for _ in range(3):
        studio = clipgen.Studio("a cat", folder=tmp_path, **SMALL)
        counts.append((widgets(), channels()))
        studios.append(weakref.ref(studio))
    assert counts[0] == counts[1] == counts[2]
    gc.collect()
    assert [bool(each()) for each in studios] == [False, False, True]


def test_runs_and_threads_end_with_their_studio(tmp_path):
    counts, studios = [], []
    for _ in range(3):
        studio = clipgen.Studio("a cat", folder=tmp_path, **SMALL | {"steps": 5000})
        studio.generate()
        while not studio.job.frame:
            studio.job.join(0.01)
        studios.append(weakref.ref(studio))
        job = studio.job
    del studio
    last = clipgen.Studio("a cat", folder=tmp_path, **SMALL)
    job.join(60)
    assert not working() and job.run.step < 5000 and not job.error
    gc.collect()
    assert not any(each() for each in studios), "the job outlives it, for the models that the next run shares"
    before = widgets()
    last.gallery.refresh()
    counts = [widgets() == before for _ in range(2) if not last.gallery.refresh()]
    assert counts == [True, True]


def test_a_look_at_views_ends_with_its_studio(tmp_path):
    run = clipgen.generate("a cat", folder=tmp_path, progress=False, **SMALL | {"steps": 40, "every": 40})
    studio = clipgen.Studio("a cat", folder=tmp_path, **SMALL)
    studio.view(run.journal.folder)
    calls, began = [], threading.Event()

    def slow(image, latent, step):
        calls.append(step)
        began.set()
        closed.wait(60)
        return 0 * image.sum()

    closed = threading.Event()
    looked = clipgen.Run("a cat", folder=tmp_path, losses=[slow], **SMALL | {"steps": 40, "every": 40})
    looked.step = 40
    studio.cutouts._load_run = lambda folder: looked
    studio.cutouts.show_button.click()
    assert began.wait(60)
    clipgen.Studio("a cat", folder=tmp_path, **SMALL)
    closed.set()
    for thread in working():
        thread.join(60)
    assert len(calls) == 1 and not working()


def test_a_studio_that_is_refused_closes_no_other(tmp_path):
    studio = clipgen.Studio("a cat", folder=tmp_path, **SMALL)
    before = widgets()
    with pytest.raises(clipgen.ClipgenError):
        clipgen.Studio("a cat", folder=tmp_path, lr=-1)
    assert widgets() == before
    studio.generate()
    assert studio.wait().finished and "Done" in studio.preview.phase.value


def test_a_studio_does_not_grow_while_it_is_used(tmp_path):
    folders = [
        clipgen.generate(prompt, folder=tmp_path, progress=False, **SMALL).journal.folder
        for prompt in ("a cat | a dog", "a hat | a cup")
    ]
    studio, counts = clipgen.Studio("a cat", folder=tmp_path, **SMALL), []
    for folder in folders * 2:
        studio.view(folder)
        studio.gallery.refresh()
        counts.append(widgets())
    assert len(set(counts)) == 1 and studio.preview.journal.folder == folders[1]
