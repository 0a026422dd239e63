"""``python -m proxy_cache.cli env``: the command, where it is not installed."""

import sys

from .main import main

sys.exit(main())
