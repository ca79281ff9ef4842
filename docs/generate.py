"""Writes the generated pages of this folder; with --check, only says which of them are stale."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from docs import errors_page, states_page, steps_page

FOLDER = pathlib.Path(__file__).parent
PAGES = {"errors.md": errors_page.page, "states.md": states_page.page, "steps.md": steps_page.page}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the pages; return 1 if one was to be checked and is stale."""
    parser = argparse.ArgumentParser(description="Write the generated pages.")
    parser.add_argument("--check", action="store_true", help="only say whether they are up to date")
    checking = parser.parse_args(arguments).check
    stale = 0
    for name, make in PAGES.items():
        path, wanted = FOLDER / name, make()
        if not checking:
            path.write_text(wanted)
        elif not path.exists() or path.read_text() != wanted:
            print(f"{path} is stale: run `make docs`", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
