"""`python -m bridges NAME --config FILE`: what `montana bridge` and `montana up` run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bridges.process import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bridges")
    parser.add_argument("name")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    sys.exit(main(arguments.name, arguments.config, arguments.parent))
