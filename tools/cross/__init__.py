"""Run the C row kernels without Python: a C program for any target replays vectors from the conformance suite.

``make replay`` compiles the kernels and the program for this machine and runs every instruction set that it has;
``make aarch64`` compiles the same sources for aarch64 and runs them under emulation;
docs/measurements/accuracy.md has the results.

- vectors.py writes the inputs, as the kernels get them, and what is right with its bounds to one file.
- read_vectors.c reads that file, replay.c runs the kernels on it and judges, exp_error.c and casts.c need no file.
- build.py knows the compilers.
"""
