"""`taxiway suite draft`: draft a suite of expectations from good data, for a person to edit."""

from __future__ import annotations

import argparse
import tempfile
from datetime import datetime
from pathlib import Path

from operators.core.duck import open_duckdb
from operators.core.errors import ConfigurationError
from operators.validation.data import convert_csv
from operators.validation.draft import sketch, suite_text
from operators.validation.interruptible import InterruptibleDuckDB
from operators.validation.profile import Reference, measure
from operators.validation.sources import local_files


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    suite = commands.add_parser("suite", help="work with suites of expectations")
    actions = suite.add_subparsers(dest="action", required=True, metavar="ACTION")
    draft = actions.add_parser("draft", help="draft a suite from data that is known to be good")
    draft.add_argument("source", help="the data, Parquet or CSV: a file, a folder or a pattern, local or s3://")
    draft.add_argument("-o", "--output", type=Path, help="write the suite to this file (default: print it)")
    draft.add_argument("--name", help="name of the suite (default: the name of the source)")
    draft.add_argument("--time-column", help="column with the time of a row; --start and --end need it")
    draft.add_argument("--start", type=datetime.fromisoformat, help="use only rows from this time on, e.g. 2026-05-01")
    draft.add_argument("--end", type=datetime.fromisoformat, help="use only rows before this time")
    draft.add_argument(
        "--margin",
        type=float,
        default=10.0,
        metavar="PCT",
        help="how far new data may go beyond the observed range, in percent of it (default: 10)",
    )
    draft.add_argument("--force", action="store_true", help="overwrite an existing file")
    draft.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Draft a suite.

    :raises ConfigurationError: the source or the time range is wrong, or the file exists
    """
    if options.output and options.output.exists() and not options.force:
        raise ConfigurationError(f"{options.output} exists, and somebody may have edited it; --force overwrites it")
    reference = Reference(options.time_column, options.start, options.end)
    source = options.source if "://" in options.source else str(Path(options.source).absolute())
    name = options.name or Path(source.rstrip("/")).name.split(".")[0].replace("*", "") or "data"
    with tempfile.TemporaryDirectory(prefix="taxiway-suite-") as folder:
        files = local_files(source, None, Path(folder) / "source")
        with open_duckdb(Path(folder), *{path.parent for path in files.paths}) as connection:
            db, paths = InterruptibleDuckDB(connection), list(files.paths)
            if files.file_format == "csv":
                paths = [convert_csv(db, paths, Path(folder) / "converted.parquet")]
            table = measure(db, paths, reference)
    text = suite_text(name, sketch(table, margin_pct=options.margin), table, source=options.source)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
        print(
            f"{options.output}: {text.count('- type:')} expectations from {table.rows:,} rows; check them before you use them"
        )
    else:
        print(text, end="")
    return 0
