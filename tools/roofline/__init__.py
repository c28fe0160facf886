"""Compare the kernels with what the machine allows, and with other libraries: ``python -m tools.roofline``.

goals.py holds the goals, sessions.py the shapes, and candidates.py the calls that are timed. run.py measures, and
record.py holds the results for tables and figures.

Sessions are not cells of ``softmax-ce compare``, although both time, judge and talk to other libraries by the same
modules of `measure` and `truth`. A session pairs calls within a round that differ in options, dtype, buffers, threads
or class axis; a cell of compare, its record and its tables have one call for each backend and operation.
"""
