"""Attributes from a table: wide and long, by id and by path."""

from __future__ import annotations

import numpy as np
import pytest

from embedcal.detecting.tables import table_presence
from embedcal.errors import EmbedcalError

ROWS = np.arange(12)


def written(tmp_path, text, name="table.csv"):
    file = tmp_path / name
    file.write_text(text)
    return file


def test_a_wide_table_by_id(small, tmp_path):
    text = "id,sea,red hat\nrow3,1,0\nrow0,-1,yes\nelsewhere,1,1\nrow11,,False\n"
    found = table_presence(small, written(tmp_path, text), ROWS)
    assert found.names == ("sea", "red hat")
    wanted = np.full((12, 2), -1)
    wanted[3], wanted[0], wanted[11] = (1, 0), (0, 1), (-1, 0)
    assert found.present.tolist() == wanted.tolist()
    part = table_presence(small, written(tmp_path, text), np.array([11, 3]))
    assert part.present.tolist() == wanted[[11, 3]].tolist()


def test_a_wide_table_by_path_and_as_parquet(small, tmp_path):
    import pandas as pd

    paths = small.samples.paths
    frame = pd.DataFrame({"image": [f"./{paths[2]}", paths[5]], "sea": [True, False]})
    frame.to_parquet(tmp_path / "t.parquet")
    found = table_presence(small, tmp_path / "t.parquet", ROWS)
    assert np.flatnonzero(found.present[:, 0] >= 0).tolist() == [2, 5]
    assert found.present[[2, 5], 0].tolist() == [1, 0]


def test_a_long_table(small, tmp_path):
    text = "image,attribute\nrow1,sea\nrow1,hat\nrow4,hat\nrow5,\n"
    found = table_presence(small, written(tmp_path, text), ROWS)
    assert found.names == ("hat", "sea")
    assert found.present[[1, 4, 5, 0]].tolist() == [[1, 1], [1, 0], [0, 0], [-1, -1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,sea\nrow1,1\n", "a column of images"),
        ("id,sea\nnone,1\n", "ids or paths of small.h5"),
        ("id,sea\nrow1,maybe\n", "1, 0 or a blank in the column 'sea'.*'maybe' in line 2"),
        ("id,sea\nrow1,1\nrow1,0\n", "every image once.*line 3"),
        ("id\nrow1\n", "columns of attributes"),
        ("id,attribute\nrow1,\n", "expected attributes"),
    ],
)
def test_what_is_no_such_table(small, tmp_path, text, message):
    with pytest.raises(EmbedcalError, match=message) as told:
        table_presence(small, written(tmp_path, text), ROWS)
    assert "\n" not in str(told.value)
