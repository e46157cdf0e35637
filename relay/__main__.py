"""`python -m relay` is `montana`."""

from __future__ import annotations

from relay.cli import main

main()
