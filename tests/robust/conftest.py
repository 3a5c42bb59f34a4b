import pytest

from clipgen.studies import worker
from clipgen.studies.executor import ProcessExecutor


class InlineWorker:
    """Makes the rows of a study in this process, where a test is not about processes: starting one takes seconds."""

    def call(self, function, *arguments):
        return function(*arguments)

    def kill(self):
        pass

    close = kill


@pytest.fixture
def inline_workers(monkeypatch):
    monkeypatch.setattr(ProcessExecutor, "start_worker", lambda self, slot: InlineWorker())
    monkeypatch.setattr(worker, "_last_run", None)  # put back at the end: models are not kept
