"""The `edgegpt` command; `python -m edgegpt` is the same."""

import signal
import sys

from .exit_codes import INTERRUPTED

__all__ = ["main"]


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it in one line, too.

    Once all is done, Ctrl-C just ends the process, which libraries may still be tidying up.
    """
    try:
        from .cli import main as run  # noqa: PLC0415 - most of what is imported

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
