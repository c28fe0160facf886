"""The regression gate: is one build slower than another? Its error rates were measured.

The data's way: :mod:`builds` makes two installed builds of two revisions, :mod:`session` times them in pairs of fresh
processes (:mod:`process` starts one, :mod:`worker` runs in it), :mod:`decision` turns the paired times
into verdicts, and :mod:`run` does all of it in order. :mod:`credentials` measures how often it is right.

Nothing is imported here: the worker's process, which imports this package, is to have as little in it as can be.
"""
