"""`python -m lmeec_core.cli` is `lmeec`."""

import sys

from lmeec_core.cli.app import main

sys.exit(main())
