"""How often the gate is right, measured on this machine with the gate's own code on real builds.

:mod:`mutants` says what is changed in a build to make it slower, :mod:`arms` which build is held against which and
how often, :mod:`campaign` runs the gate, :mod:`store` keeps what it found, :mod:`summary` counts and resamples,
:mod:`page` and :mod:`plots` put it into docs/measurements/gate.md.
``python -m tools.gate_credentials`` does all of it.
"""
