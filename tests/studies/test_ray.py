"""The same study on Ray: a cluster of two nodes on this machine; workers are killed, and one of the nodes goes."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import killed_study
import pytest

import clipgen
from clipgen.studies import study
from clipgen.studies.row import RowState, StudyStorage

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


def patiently(start, **options):
    """A node of a cluster. Ray gives it 30 seconds, which a busy machine can need; then it is another one's turn."""
    for _ in range(3):
        try:
            return start(**options)
        except Exception as error:
            late = error
    raise late


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each, and the second one."""
    from ray.cluster_utils import Cluster

    made = Cluster()
    patiently(made.add_node, num_cpus=1, include_dashboard=False)
    second = patiently(made.add_node, num_cpus=1)
    ray.init(made.address, log_to_driver=False)
    yield made, second
    ray.shutdown()
    made.shutdown()


def test_workers_are_killed_and_a_node_goes(cluster, whole, same, tmp_path, monkeypatch):
    from clipgen.studies.executor import RayExecutor, RayWorker

    monkeypatch.setattr(study, "TICK", 0.01)
    engine, processes, killed = RayExecutor(None, 3, []), {}, 0
    assert (engine.workers, engine.threads) == (2, 1)
    start, due = engine.start_worker, killed_study.kills(RayWorker, monkeypatch, 2)

    def started(slot):
        worker = start(slot)
        processes[worker] = worker.actor.__ray_call__.remote(lambda _: os.getpid())  # its first task
        return worker

    monkeypatch.setattr(engine, "start_worker", started)
    for row in killed_study.rows(tmp_path):
        row.begin(1)
    folders = [tmp_path / row.folder.name for row in whole.rows]
    nodes, second = cluster
    for _ in study.make_batches(engine, [[folder] for folder in folders], StudyStorage(tmp_path)):
        for worker in due():
            with suppress(ProcessLookupError, ray.exceptions.RayActorError):  # its row was made, or its node is gone
                os.kill(ray.get(processes[worker]), signal.SIGKILL)
                killed += 1
        if second and killed == 1:
            nodes.remove_node(second)
            second = None
    engine.shutdown()
    assert killed and second is None and ray.is_initialized()
    for row, folder in zip(whole.rows, folders):
        assert RowState.read(folder).done
        same(folder, row.folder)


def test_a_study_on_ray(cluster, quick, tmp_path):
    study = clipgen.study("a cat", seed=[1, 2], steps=2, engine="ray", folder=tmp_path, **quick)
    assert study.finished and len({row.image.tobytes() for row in study.rows}) == 2


def test_an_error_in_a_task_is_the_reason(cluster):
    """Ray's own text of it is a traceback, whose first line names the actor."""
    from clipgen.studies.executor import RayExecutor, WorkerLost

    engine = RayExecutor(1, 1, [])
    error = engine.submit(int, "seven").exception(120)
    engine.shutdown()
    assert isinstance(error, WorkerLost) and str(error) == "invalid literal for int() with base 10: 'seven'"


def test_an_actor_runs_nothing_that_lies_beside_the_study(tmp_path, monkeypatch):
    """Its class comes pickled, after Ray has put the study's folder first on the path."""
    from clipgen.studies.executor import RayExecutor

    received, ran = tmp_path / "received", tmp_path / "ran"
    received.mkdir()
    for name in ("queue", "torch", "json", "linecache", "runpy", "signal", "random", "clipgen", "sitecustomize"):
        (received / f"{name}.py").write_text(f"open({str(ran)!r}, 'w')")
    monkeypatch.chdir(received)
    sent = []

    class Cluster:
        """Takes what a study sends to its actors, in place of a cluster, which takes half a minute to start."""

        def remote(self, kind):
            sent.append(kind)
            return self

        def options(self, **_):
            self.remote = lambda *given: sent.append(given)
            return self

    engine = object.__new__(RayExecutor)
    engine.__dict__.update(_ray=Cluster(), threads=1, _gpu_share=0)
    engine.start_worker(0)
    (tmp_path / "sent").write_bytes(ray.cloudpickle.dumps(sent))
    actor = f"""
import sys, pickle, pathlib
import ray.cloudpickle
sys.path.insert(0, {str(Path.cwd())!r})
kind, given = pickle.loads(pathlib.Path({str(tmp_path / "sent")!r}).read_bytes())
kind(*given)
assert sys.modules["torch"].__version__ and {str(Path.cwd())!r} not in sys.path
"""
    (tmp_path / "actor.py").write_text(actor)
    subprocess.run([sys.executable, str(tmp_path / "actor.py")], cwd=tmp_path, check=True)
    assert not ran.exists()
