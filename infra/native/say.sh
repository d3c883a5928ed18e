# shellcheck shell=bash
# How the scripts speak: what is being done on standard output, what failed on standard error.

say() { printf '%s\n' "$*"; }

# step TITLE
step() { printf '\n== %s\n' "$*"; }

# die SENTENCE [HOW TO MEND IT]
die() {
    printf '\n%s\n' "$1" >&2
    [[ $# -lt 2 ]] || printf '%s\n' "$2" >&2
    exit 1
}

# quietly WHAT REMEDY COMMAND…: runs a command whose output matters only when it fails.
quietly() {
    local what=$1 remedy=$2 output
    shift 2
    output=$("$@" 2>&1 </dev/null) || {
        local code=$?
        printf '%s\n' "$output" | tail -n 25 >&2
        die "$what failed (exit code $code): $*" "$remedy"
    }
}
