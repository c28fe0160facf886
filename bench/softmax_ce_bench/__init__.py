"""The measuring half of softmax-ce: conformance, timing and comparison of backends, and the ``softmax-ce`` command."""
