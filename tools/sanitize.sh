#!/usr/bin/env bash
# The suite on an extension built with gcc's sanitizers, and on a twin that checks every index; the row kernels on two
# threads under ThreadSanitizer. usage: tools/sanitize.sh PYTHON [address|thread|bounds] [TEST ...], or PYTHON fuzz
# [OPTION ...] for the fuzzing, with its options, on the extension of the first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(realpath -s "$1")
shift
builds=${PWD}/build/sanitize
rows=kernels/softmax_ce/_backends/cython
# Left out: what needs the memory that a sanitizer takes for itself, an emulator, another build, a clock or a browser;
# and the fuzzing, which is a check of its own.
left_out=()
for test in faults/test_{refused_resources,interrupt,broken_installs,other_cpus}.py test_{asv,timing,html,history,fuzz,operations}.py; do
    left_out+=(--ignore "tests/$test")
done
left_out+=(--deselect tests/test_pick.py::test_memory_and_cold_start_are_measured_in_fresh_processes)

# The package with the extension built anew, where PYTHONPATH finds it before the installed one.
build() {
    SOFTMAX_CE_REQUIRE_ALL=1 "$python" setup.py --quiet build --build-lib "$builds/$1/lib" --build-temp "$builds/$1/temp" \
        build_ext --force
}

suite() {
    local name=$1
    shift
    PYTHONPATH="$builds/$name/lib" "$python" -c 'import softmax_ce; print("testing", softmax_ce.__file__)'
    PYTHONPATH="$builds/$name/lib" NUMBA_CACHE_DIR="$builds/numba" "$python" -m pytest -q "${left_out[@]}" "${@:-tests}"
}

runtime() { gcc -print-file-name="lib$1.so"; }

# A command on that extension.
sanitized() (
    SOFTMAX_CE_SANITIZE=address,undefined build address
    # Python leaks by design, and its own allocator would hide what lies next to what.
    export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONMALLOC=malloc
    export UBSAN_OPTIONS=print_stacktrace=1
    LD_PRELOAD="$(runtime asan) $(runtime ubsan)" "$@"
)

address() { sanitized suite address "$@"; }

fuzz() {
    sanitized env PYTHONPATH="$builds/address/lib:tests" NUMBA_CACHE_DIR="$builds/numba" "$python" -m tools.fuzz "$@"
}

thread() {
    mkdir -p "$builds"
    # ThreadSanitizer of gcc 12 cannot start where addresses are randomised over more than 28 bits.
    local run=(setarch "$(uname -m)" --addr-no-randomize "$builds/race")
    gcc -fsanitize=thread -g -O1 -std=c11 -D_DEFAULT_SOURCE -fno-math-errno -fno-trapping-math -ffp-contract=off \
        -I"$rows" tools/race.c "$rows"/rows_*.c -o "$builds/race" -lm -lpthread
    "${run[@]}"
    if TSAN_OPTIONS=halt_on_error=1 "${run[@]}" overlap > "$builds/overlap.log" 2>&1; then
        echo "a race that was made on purpose was not reported: the check is worth nothing" >&2
        return 1
    fi
    grep --quiet "ThreadSanitizer: data race" "$builds/overlap.log"
}

bounds() {
    SOFTMAX_CE_BOUNDSCHECK=1 build bounds
    NUMBA_BOUNDSCHECK=1 suite bounds "$@"
}

case ${1:-all} in
    all) thread && address && bounds ;;
    address | thread | bounds | fuzz) "$@" ;;
    *) echo "no such check: $1; there are address, thread, bounds and fuzz" >&2 && exit 2 ;;
esac
