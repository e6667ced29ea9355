"""`python -m lmeec_core.cli` is `lmeec`."""

import sys

from lmeec_core.cli.entry import main

sys.exit(main())
