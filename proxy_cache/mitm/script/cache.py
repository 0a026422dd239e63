"""What mitmdump loads where the package is installed: ``mitmdump -s "$(proxy-cache addon-path)"``. In a checkout it is
``addons/cache.py``. In a folder of its own: mitmproxy puts the folder of a script first on Python's path."""

from proxy_cache.runtime import hangup

hangup.catch()  # before what follows, which takes a while

from proxy_cache.mitm.addon import CacheAddon  # noqa: E402

addons = [CacheAddon()]
