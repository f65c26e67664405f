"""`python -m tinygrad_bp` is the command `tinygrad-bp`."""

import sys

from tinygrad_bp.cli import main

if __name__ == "__main__":
    sys.exit(main())
