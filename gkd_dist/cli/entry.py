"""From one command line to its exit code, which is decided here alone; `EXIT_CODES` lists them (floor F5)."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence

from gkd_dist.cli.app import app
from gkd_dist.cli.exit_codes import EXIT_INTERNAL, EXIT_INTERRUPTED
from gkd_dist.errors import GkdError, StoppedError, plain
from gkd_dist.process import prepare_this_process
from gkd_dist.serial import is_at_work


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        args: None: those of this process, which ends at once where an engine is still at work.
    """
    code = _main(args)
    if args is None and is_at_work():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _main(args: Sequence[str] | None) -> int:
    prepare_this_process()
    try:
        app(args=None if args is None else list(args), prog_name="gkd")
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED:
            print("interrupted", file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except GkdError as error:
        prefix = "" if isinstance(error, StoppedError) else "error: "
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"{prefix}{line}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            traceback.print_exc()
        else:
            print(f"error: {plain(error)}; make room there, and run the same command again", file=sys.stderr)
        return EXIT_INTERNAL
    except Exception:
        traceback.print_exc()
        return EXIT_INTERNAL
    return 0
