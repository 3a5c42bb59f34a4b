"""Files that are whole or not there."""

import sys
from concurrent.futures import ThreadPoolExecutor

from clipgen.storage import atomic_write


def test_writers_in_one_folder_leave_each_others_parts(tmp_path):
    """A part that is open and not yet locked looks like that of a killed process: its writer begins another one."""

    def write(number):
        for _ in range(1000):
            with atomic_write(tmp_path / f"{number}.txt") as part:
                part.write_text("whole")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads meet often
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{number}.txt" for number in range(8)]
