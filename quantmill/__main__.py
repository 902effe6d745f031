"""`python -m quantmill`."""

from quantmill.start import main

main()
