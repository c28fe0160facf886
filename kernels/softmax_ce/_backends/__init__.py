"""One backend, one module. The table is in softmax_ce.registry, the contract in softmax_ce.contract.

Named with an underscore because ``softmax_ce.backends`` is the public function that lists them.
"""
