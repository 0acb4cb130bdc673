"""Tables in the forms that published data sets come in."""

from __future__ import annotations

from pathlib import Path

from embedcal.datasets.printable import printable
from embedcal.datasets.table import Table, read_csv
from embedcal.types import EmbedcalError


def read_sheet(path: Path) -> Table:
    """A CSV or TSV, a Parquet file, an Excel workbook's first sheet, or CelebA's text form.

    CelebA's ``.txt`` has cells between blanks. Where its first line is a number of rows, the
    second has the headers of all columns but the first, which is called ``image_id``; otherwise
    there is no header, and columns are called ``0``, ``1`` and so on.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        from embedcal.datasets.containers.parquet import read_parquet

        return read_parquet(path)
    if suffix == ".xlsx":
        return _read_excel(path)
    return _read_text(path) if suffix == ".txt" else read_csv(path)


def _read_text(path: Path) -> Table:
    shown = printable(str(path), longest=300)
    try:
        rows = [line.split() for line in path.read_text("utf-8").splitlines()]
    except UnicodeDecodeError:
        raise EmbedcalError(
            f"expected text in UTF-8 in {shown}, found other bytes: save the file as UTF-8"
        ) from None
    except OSError as error:
        raise EmbedcalError(
            f"expected to read {shown}, found: {error.strerror}: check the path and its permissions"
        ) from None
    counted = bool(rows) and len(rows[0]) == 1 and rows[0][0].isdigit()
    first = 2 if counted else 0
    body = [(number, row) for number, row in enumerate(rows[first:], first + 1) if row]
    if not body:
        raise EmbedcalError(f"expected rows in {shown}, found none: get the file again")
    names = ["image_id", *rows[1]] if counted else [str(i) for i in range(len(body[0][1]))]
    for number, row in body:
        if len(row) != len(names):
            raise EmbedcalError(
                f"expected {len(names)} cells in every line of {shown}, found {len(row)} in line "
                f"{number}: get the file again"
            )
    if counted and len(body) != int(rows[0][0]):
        raise EmbedcalError(
            f"expected {int(rows[0][0]):,} rows in {shown}, as its first line says, found "
            f"{len(body):,}: get the file again"
        )
    columns = dict(zip(names, zip(*(row for _, row in body), strict=True), strict=True))
    return Table(source=str(path), columns=columns, lines=tuple(number for number, _ in body))


def _read_excel(path: Path) -> Table:
    import pandas as pd

    shown = printable(str(path), longest=300)
    try:
        frame = pd.read_excel(path, dtype=str)
    except ImportError:
        raise EmbedcalError(
            f"expected openpyxl for {shown}, found it is not installed: pip install "
            "'embedcal[excel]', or save the sheet as CSV under the same name with .csv"
        ) from None
    except Exception as error:  # a reader of foreign binary files: anything may come out of it
        raise EmbedcalError(
            f"expected an Excel workbook in {shown}, found: {printable(str(error))}: save the "
            "sheet as CSV under the same name with .csv"
        ) from None
    columns = {str(name): frame[name] for name in frame.columns}
    return Table.of(columns, source=str(path))
