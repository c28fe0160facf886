"""Other libraries under one interface, each called as its users call it. None is needed.

The adapters are in :mod:`~softmax_ce_bench.peers.adapters`. A library is imported when it is prepared, and not before.
"""

from softmax_ce_bench.peers.table import BY_NAME, PEERS, Peer

__all__ = ["BY_NAME", "PEERS", "Peer"]
