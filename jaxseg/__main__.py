"""`python -m jaxseg`."""

import sys

from jaxseg.cli import main

sys.exit(main())
