"""The program: its nouns, and the one place where errors become lines and exit codes."""

import sys
from collections.abc import Sequence

import click

from snapd import errors
from snapd.cli import archives, completion, environments, failures, operations, session, snapshots, system, volumes
from snapd.client import download
from snapd.client import errors as client_errors


@click.group(
    cls=session.Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=failures.EXIT_CODES,
)
@click.version_option(package_name="snapd-storage", prog_name="snapvol")
def program() -> None:
    """Volumes and snapshots of this host's daemon.

    Names may be short (with --environment) or full, such as environments/blue/volumes/root.
    """


for command in (
    environments.environment,
    volumes.volume,
    snapshots.snapshot,
    operations.operation,
    archives.archive,
    system.system,
    completion.completion,
):
    program.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run snapvol and return its exit code; arguments are the process's own unless given."""
    run = session.Session()
    try:
        return program.main(arguments, "snapvol", completion.VARIABLE, standalone_mode=False, obj=run) or 0
    except client_errors.ApiError as error:
        return failures.of_call(error, run.address)
    except click.Abort:
        return failures.interrupted()
    except click.ClickException as error:
        return failures.of_usage(error)
    except download.Damaged as error:
        return failures.of_download(error)
    except (OSError, errors.SnapdError) as error:
        return failures.of_file(error)
    finally:
        run.close()


if __name__ == "__main__":
    sys.exit(main())
