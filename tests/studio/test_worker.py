"""A run in its thread, and whoever looks at it."""

import threading

import pytest
from studio_hands import SMALL, until

import clipgen
from clipgen.studio.preview import Job


@pytest.mark.slow
def test_a_slow_line_does_not_slow_the_run(tmp_path):
    free, told = threading.Event(), []

    def tell(job):
        told.append([*job.rows])
        free.wait(60)

    job = Job(lambda like: clipgen.Run("a star", folder=tmp_path, steps=6, **SMALL), tell)
    until(lambda: not job.is_alive, "the end of the run, while its first news is still under way")
    assert job.run.finished and len(told) == 1
    free.set()
    job.join()
    assert [row["step"] for row in told[-1]] == [0] * 16 + [1, 2, 3, 4, 5, 6], "the newest is told, after the draft"


@pytest.mark.slow
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
