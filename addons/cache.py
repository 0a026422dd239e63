"""mitmdump -s addons/cache.py: a caching forward proxy for build agents. See the README."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout, installed or not

from proxy_cache.runtime import hangup

hangup.catch()  # before what follows, which takes a while

from proxy_cache.mitm.addon import CacheAddon  # noqa: E402

addons = [CacheAddon()]
