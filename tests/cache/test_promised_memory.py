"""A cache larger than what the system promises to a process is checked all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import embedcal
from embedcal.cache import open_cache

ROWS, WIDTH = 20_000, 1024  # 80 MB

CHILD = """
import re, resource, sys
from pathlib import Path
import numpy as np
from embedcal.cache import open_cache, verify
from embedcal.cache.gathering import stored_rows
from embedcal.cache.layout import StoredFile
from embedcal.cache.repairing import failing_rows

status = Path("/proc/self/status").read_text()
promised = int(re.search(r"VmData:\\s+(\\d+)", status)[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (promised + (40 << 20),) * 2)

damaged, row = sys.argv[1], int(sys.argv[2])
found = verify(damaged)
assert not found.ok and f"rows {row}" in found.reason, found
with StoredFile(Path(damaged)) as file:
    assert list(failing_rows(file)) == [row]
    try:
        file.map("/images/embedding")
    except OSError:
        pass
    else:
        raise AssertionError("the limit does not bite, and nothing was shown")
    order = np.array([9, 3, file.arrays["/images/embedding"].shape[0] - 1])
    some = stored_rows(file, "/images/embedding", order)
    assert np.array_equal(some[:, 0], order), some[:, 0]
print("done")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is Linux's")
def test_damage_is_found_in_more_than_can_be_promised(tmp_path: Path) -> None:
    features = np.ones((ROWS, WIDTH), np.float32)
    features[:, 0] = np.arange(ROWS)
    labels = np.arange(ROWS) % 2
    split = np.arange(ROWS) % 3
    path = embedcal.import_features(features, labels, split, out=tmp_path / "large.h5")
    row = 12_345
    with open_cache(path) as cache:
        stored = cache.stored.arrays["/images/embedding"]
        at = stored.offset + row * stored.row_bytes + 40
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\x01")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(row)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
