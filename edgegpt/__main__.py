"""`python -m edgegpt` is the `edgegpt` command."""

from .cli import main

main()
