from softmax_ce.contract import HardKernel, SoftKernel

hard: HardKernel
soft: SoftKernel

def supported() -> tuple[str, ...]: ...
def selected() -> str: ...
