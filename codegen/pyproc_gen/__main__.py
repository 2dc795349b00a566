"""`python3 -m pyproc_gen`."""

import sys

from pyproc_gen.cli import main

sys.exit(main())
