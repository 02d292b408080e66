"""`python -m squeeze_export` is `squeeze-export`."""

from squeeze_export.cli import main

main()
