"""The backends, one module each. softmax_ce.registry has the table, and softmax_ce.contract has the contract.

The underscore is there because ``softmax_ce.backends`` is the public function that lists the backends.
"""
