"""Fuzzing: random calls and files of every kind that the public functions accept or must refuse.

``make fuzz`` runs it for as long as it is told to; ``tests/test_fuzz.py`` runs a short, fixed part with every test.

A case is a description in plain JSON, drawn by Hypothesis: small enough to be written down before each run, so that it
survives the death of the process, and to be replayed later. What a property is given is built from it.

- values.py, memory.py, calls.py: descriptions of numbers, of where they lie in memory, and of whole calls.
- losses.py, normalisers.py, bad_calls.py, overlaps.py, anything.py: properties of the public functions.
- mutations.py: damage to a file; profiles.py, records.py, arrays.py, options.py: properties of what reads files.
- properties.py: the list of all properties.
- explore.py searches in one process, state.py is what such a process leaves behind, worker.py is its program;
  runner.py starts it, watches it and notices its death; kept.py keeps what failed.
"""
