"""An example of a backend for softmax-ce."""
