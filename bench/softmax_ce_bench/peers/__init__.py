"""Other libraries under one interface, each called as its users call it. None is needed.

The adapters are in :mod:`~softmax_ce_bench.peers.adapters`; :mod:`~softmax_ce_bench.peers.worker` runs each in a
process of its own. A library is imported when it is prepared, and not before.
"""

from softmax_ce_bench.peers.table import BY_NAME, PEERS, Peer
from softmax_ce_bench.peers.worker import Remote, Worker, WorkerError

__all__ = ["BY_NAME", "PEERS", "Peer", "Remote", "Worker", "WorkerError"]
