# What .ci/run and .ci/full share: steps in lanes side by side, and one closing line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# PIP_* settings of the caller stay; a virtual environment of the caller does not.
unset VIRTUAL_ENV PYTHONPATH PYTHONHOME KERAS_BACKEND
logs=$(mktemp -d)
[ "${1:-}" = keep ] || rm -rf .venv .venv-* dist  # all is made afresh

readme_command() {  # the fenced command under the line "<!-- $1 -->" of the README
    awk -v mark="<!-- $1 -->" '$0 == mark {on = 1} on && /^```$/ {exit} on && fenced {print}
        on && /^```sh$/ {fenced = 1}' README.md
}

readme() { bash -euo pipefail -c "$(readme_command "$1")"; }

step() {  # NAME COMMAND...: runs it, then shows what it printed as one block
    local name=$1 start=$SECONDS code=0 log
    shift
    log=$(mktemp "$logs/XXXXXX.log")
    # In the background, so that a function that is a step ends at its first failure.
    "$@" > "$log" 2>&1 &
    wait $! || code=$?
    ((code == 0)) || echo "$name" >> "$logs/failed"
    printf '\n== %s: %s after %d s\n%s\n' "$name" "$( ((code)) && echo "failed ($code)" || echo passed)" \
        $((SECONDS - start)) "$(cat "$log")"
}

lanes() {  # FUNCTION...: side by side; a closing line as pytest's, of all tests together
    local lane pids=()
    for lane in "$@"; do
        "$lane" &
        pids+=($!)
    done
    for lane in "${pids[@]}"; do wait "$lane" || echo "a lane broke off" >> "$logs/failed"; done
    local counts
    counts=$(cat "$logs"/*.log | grep -E '^(=+ )?[0-9]+ [a-z]+(, [0-9]+ [a-z]+)* in [0-9.]+s' |
        grep -oE '[0-9]+ (failed|passed|skipped|deselected|xfailed|xpassed|errors?)' |
        awk '{sum[$2 == "errors" ? "error" : $2] += $1}
            END {split("failed passed skipped deselected xfailed xpassed error", names)
                for (i = 1; i in names; i++) if (names[i] in sum)
                    {printf "%s%d %s", comma, sum[names[i]], names[i]; comma = ", "}}') || true
    if [ -e "$logs/failed" ]; then
        printf '\n'
        sed 's/^/FAILED /' "$logs/failed"
    fi
    printf '\n======== %s in %d.00s (0:%02d:%02d) ========\n' \
        "${counts:-no tests ran}" $SECONDS $((SECONDS / 60)) $((SECONDS % 60))
    [ ! -e "$logs/failed" ]
}
