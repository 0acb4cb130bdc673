"""``python -m embedcal`` is the command."""

from embedcal.cli import main

main()
