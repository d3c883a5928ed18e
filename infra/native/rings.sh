# shellcheck shell=bash
# How many tests each ring had, counted from what was run.

# rings NEXTEST_LOG DOC_LOG: a table, and last a line with the totals.
rings() {
    awk '
        # A test that failed and left a process behind is a failure like others.
        FNR == NR { sub(/FAIL \+ LEAK/, "FAIL") }
        # A finished test: "PASS [ 0.012s] (1/9) crate::binary module::name"; failures are repeated at the end.
        FNR == NR && ($2 == "[" || $2 ~ /^\[[0-9]/) {
            if ($1 !~ /^(PASS|LEAK|FLAKY|FAIL|TIMEOUT|ABORT|SIG[A-Z]+)$/) next
            test = $(NF - 1) " " $NF
            if (test in seen) next
            seen[test] = 1
            ring = "pure"
            if ($NF ~ /(^|::)loops::/) ring = "loop"
            if ($NF ~ /(^|::)live::/) ring = "live"
            if ($(NF - 1) ~ /^tailwater-tests(::|$)/) ring = "world"
            if ($1 ~ /^(PASS|LEAK|FLAKY)$/) passed[ring]++; else failed[ring]++
        }
        FNR != NR && /^test result:/ { passed["doc"] += $4; failed["doc"] += $6 }
        END {
            printf "  %-6s %7s %7s\n", "ring", "passed", "failed"
            count = split("pure loop live world doc", order, " ")
            for (i = 1; i <= count; i++) {
                ring = order[i]
                printf "  %-6s %7d %7d\n", ring, passed[ring], failed[ring]
                all_passed += passed[ring]; all_failed += failed[ring]
            }
            printf "\n%d passed, %d failed\n", all_passed, all_failed
        }' "$1" "$2"
}
