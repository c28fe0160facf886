"""Other libraries behind one interface, each called the way its users call it. All of them are optional.

The adapters are in :mod:`~softmax_ce_bench.peers.adapters`. A library is imported when it is prepared, and not before.
"""

from softmax_ce_bench.peers.layers import LINEAR
from softmax_ce_bench.peers.table import BY_NAME, PEERS, Peer

__all__ = ["BY_NAME", "LINEAR", "PEERS", "Peer"]
