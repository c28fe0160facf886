"""The asv suite. asv imports every module here in an environment that has only asv.conf.json's matrix.

Imports are therefore NumPy, softmax_ce, asv's own runner and the standard library, nothing else.
"""

import os

if "ASV_COMMIT" in os.environ:
    # Numba tells a stale cache by the source's size and time stamp, which two commits may share.
    _CACHE = os.path.join(os.environ["ASV_ENV_DIR"], "numba-cache", os.environ["ASV_COMMIT"])
    os.environ.setdefault("NUMBA_CACHE_DIR", _CACHE)
