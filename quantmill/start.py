"""The entry point of the command `quantmill`: Ctrl-C during the imports ends it without a traceback."""

import sys


def main() -> None:
    """Import the command line and run it; Ctrl-C ends it with status 130."""
    try:
        from quantmill import cli

        cli.main()
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
