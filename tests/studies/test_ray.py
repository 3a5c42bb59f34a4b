"""The same study on Ray: a cluster of two nodes on this machine; workers are killed, and one of the nodes goes."""

import os
import signal
from contextlib import suppress

import killed_study
import pytest

import clipgen
from clipgen.studies import study
from clipgen.studies.row import RowState
from clipgen.studies.storage import StudyStorage

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
    from clipgen.studies.ray import RayExecutor, RayWorker

    monkeypatch.setattr(study, "TICK", 0.01)
    engine, processes, killed = RayExecutor(None, 3, []), {}, 0
    assert (engine.workers, engine.threads) == (2, 1)
    start, due = engine.start_worker, killed_study.kills(RayWorker, monkeypatch, 3)

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
        if second and killed == 2:
            nodes.remove_node(second)
            second = None
    engine.shutdown()
    assert killed >= 2 and second is None and ray.is_initialized()
    for row, folder in zip(whole.rows, folders):
        assert RowState.read(folder).done
        same(folder, row.folder)


def test_a_study_on_ray(cluster, quick, tmp_path):
    study = clipgen.study("a cat", seed=[1, 2], steps=2, engine="ray", folder=tmp_path, **quick)
    assert study.finished and len({row.image.tobytes() for row in study.rows}) == 2
