# shellcheck shell=bash
# Background processes, known by what was recorded when they were started and by nothing else.
#
# A record holds process id, start time in ticks since boot, and the boot: an id that was used again since, or that
# is left from before a restart of the machine, is not ours and is never signalled.

pids=$TAILWATER_WORLD/pids

# identity PID: what tells this process from a later one with the same id; fails when there is none.
identity() {
    local stat boot
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    # The name may hold spaces and parentheses; what follows the last one is state (1) … start time (20).
    # shellcheck disable=SC2086 # the fields are wanted apart
    set -- "$1" ${stat##*) }
    [[ $2 != Z ]] || return 1
    read -r boot </proc/sys/kernel/random/boot_id
    echo "$1 ${21} $boot"
}

# pid_of NAME: its process id if it runs; fails otherwise.
pid_of() {
    local record
    { read -r record <"$pids/$1"; } 2>/dev/null || return 1
    [[ $(identity "${record%% *}") = "$record" ]] || return 1
    echo "${record%% *}"
}

is_running() { pid_of "$1" >/dev/null; }

# start NAME COMMAND…: in the background, free of this terminal, output appended to its log.
start() {
    local name=$1 pid
    shift
    mkdir -p "$pids" "$logs"
    printf -- '---- started %(%F %T)T\n' -1 >>"$logs/$name.log"
    # File 9 is this script's lock on the world.
    setsid "$@" </dev/null >>"$logs/$name.log" 2>&1 9>&- &
    pid=$!
    identity "$pid" >"$pids/$name.new" || true
    mv "$pids/$name.new" "$pids/$name"
}

# await NAME COMMAND…: waits until the command succeeds; shows the log's end when the process ends or takes too long.
await() {
    local name=$1 began=$SECONDS
    shift
    until "$@" >/dev/null 2>&1; do
        is_running "$name" || failed_to_start "$name" "ended while it was starting"
        ((SECONDS - began < TAILWATER_START_SECONDS)) ||
            failed_to_start "$name" "was not ready after $TAILWATER_START_SECONDS seconds (TAILWATER_START_SECONDS)"
        sleep 0.1
    done
    say "  $name is ready (process $(pid_of "$name"))"
}

failed_to_start() {
    printf '\n%s %s. The end of its log:\n' "$1" "$2" >&2
    tail -n 25 "$logs/$1.log" | sed 's/^/  | /' >&2
    die "$1 could not be started." "The whole log: $logs/$1.log"
}

# recorded: the names of everything that was started and not yet stopped.
recorded() {
    local record
    for record in "$pids"/*; do
        [[ ! -f $record ]] || basename "$record"
    done
}

# stop NAME…: asks all to end, waits, kills what is left.
stop() {
    local name pid signal began=$SECONDS
    for name in "$@"; do
        if pid=$(pid_of "$name"); then
            signal=TERM
            [[ $name != postgres ]] || signal=INT # "fast": end sessions, do not wait for them
            kill -s "$signal" "$pid" 2>/dev/null || true
        fi
    done
    for name in "$@"; do
        while pid=$(pid_of "$name"); do
            if ((SECONDS - began >= TAILWATER_STOP_SECONDS)); then
                say "  $name did not end within $TAILWATER_STOP_SECONDS seconds and is killed; its log: $logs/$name.log"
                kill -s KILL "$pid" 2>/dev/null || true
            fi
            sleep 0.1
        done
        rm -f "$pids/$name"
    done
}

# listening PORT: whether somebody accepts connections there.
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# claim NAME PORT VARIABLE: fails in one sentence when another program has the port.
claim() {
    if listening "$2"; then
        die "port $2 on 127.0.0.1 is taken by another program, and $1 wants it; set $3 to a free port."
    fi
}

# http_ok PORT PATH: whether GET answers 200.
http_ok() (
    exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
    printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' "$2" >&3
    read -r -t 5 status <&3
    [[ $status = *" 200"* ]]
)
