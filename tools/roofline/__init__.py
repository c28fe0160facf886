"""How far the kernels are from what the machine allows, and from their peers: ``python -m tools.roofline``.

goals.py says what is wanted, sessions.py on which shapes it is measured, candidates.py what is timed; run.py does it,
and record.py is what tables and figures are made of.

Sessions are not cells of ``softmax-ce compare``, although both time, judge and talk to other libraries by the same
modules of `measure` and `truth`. A session pairs calls within a round that differ in options, dtype, buffers, threads
or class axis; a cell of compare, its record and its tables have one call for each backend and operation.
"""
