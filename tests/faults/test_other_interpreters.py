"""Sub-interpreters: works, or a clear ImportError; the process and the main interpreter go on either way."""

from __future__ import annotations

import pytest

from child import python, survive

# What the standard library has called the module, and how it made the two kinds of interpreter.
CREATE = """
if {loaded}:
    import scenario
    scenario.check()
try:
    import _interpreters as interpreters
    make = lambda isolated: interpreters.create("isolated" if isolated else "legacy")
except ImportError:
    import _xxsubinterpreters as interpreters
    make = lambda isolated: interpreters.create(isolated=isolated)
CODE = '''
import sys, warnings
sys.path[:] = {path!r}
warnings.simplefilter("ignore")  # NumPy warns of sub-interpreters
try:
    import scenario, softmax_ce as sce
except ImportError as error:
    print("ImportError:", error)
else:
    for info in sce.backends():
        if info.available:
            scenario.check(info.name)
            scenario.check(info.name)
        else:
            assert info.why_unavailable
            print(info.name, "unavailable:", info.why_unavailable)
    scenario.check()
    print("works:", sce.cross_entropy([[0.0, 0.0]], [0]))
'''
import sys
for _ in range(2):
    inner = make({isolated})
    failed = interpreters.run_string(inner, CODE.format(path=sys.path))
    assert failed is None, failed
    interpreters.destroy(inner)
if {loaded}:
    scenario.check()
    scenario.check("numpy")
    print("outside: right")
"""


@pytest.mark.parametrize("loaded", [True, False], ids=["also outside", "inside alone"])
@pytest.mark.parametrize("isolated", [False, True], ids=["legacy", "isolated"])
def test_a_sub_interpreter(isolated: bool, loaded: bool) -> None:
    if python("import _interpreters").returncode and python("import _xxsubinterpreters").returncode:
        pytest.skip("this Python has no sub-interpreters")
    output = survive(CREATE.replace("{isolated}", str(isolated)).replace("{loaded}", str(loaded)))
    assert output.endswith("outside: right\n") == loaded
    assert "works: 0.693" in output or "ImportError:" in output
