"""Where the command `quantmill` begins: Ctrl-C while the command line is still being imported ends it without a traceback."""

import sys


def main() -> None:
    """Import the command line and run it; a stop on the way ends with status 130."""
    try:
        from quantmill import cli

        cli.main()
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
