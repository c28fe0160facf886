"""How far the kernels are from what the machine allows, and from their peers: ``python -m tools.roofline``.

goals.py says what is wanted, sessions.py on which shapes it is measured, candidates.py what is timed; run.py does it,
and record.py is what tables and figures are made of.
"""
