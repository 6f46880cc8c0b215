#!/usr/bin/env bash
# All tests of the workspace, in two lanes side by side.
#
# Stories on clusters wait most of their time, for pods and controllers; the other tests compute. One after the other
# they take twice as long as beside each other. Every test target is in exactly one lane: what is not named as slow is
# in the other, so that a new one cannot be forgotten. No retries: a test that fails beside others has a race.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
# Targets that wait for clusters most of the time.
slow='outages stories authority flapping hijack load reconcile rotation skew'

"$cargo" test --workspace --no-run
all=$("$cargo" metadata --no-deps --format-version 1 | python3 -c '
import json, sys
targets = [target for package in json.load(sys.stdin)["packages"] for target in package["targets"]]
print(*sorted({target["name"] for target in targets if "test" in target["kind"]}))')

waiting=() computing=()
for name in $all; do
    case " $slow " in
        *" $name "*) waiting+=(--test "$name") ;;
        *) computing+=(--test "$name") ;;
    esac
done

logs=$(mktemp -d)
lane=
# A process group of its own, so that the lane and all that it started can be ended.
finish() {
    [[ -z $lane ]] || kill -- "-$lane" 2>/dev/null || true
    rm -rf "$logs"
}
trap finish EXIT
trap 'exit 130' INT TERM
set -m
"$cargo" test --workspace --no-fail-fast "${waiting[@]}" >"$logs/waiting" 2>&1 &
lane=$!
set +m

failed=0
"$cargo" test --workspace --no-fail-fast --lib --bins "${computing[@]}" 2>&1 | tee "$logs/computing" || failed=1
# Once more with the newest server: what is judged must not hang on the distribution's. (pg_dump and the regression suite
# are the distribution's too, and refuse a newer one.)
PGBIN=$(hack/newest-postgres.sh) "$cargo" test --workspace --no-fail-fast --test bypass --test drivers --test false_refusals \
    --test psql --test real --test sql_oracle 2>&1 | tee "$logs/newest" || failed=1
"$cargo" test --workspace --no-fail-fast --doc 2>&1 | tee "$logs/doc" || failed=1
wait "$lane" || failed=1
lane=
echo '==> the lane that ran beside it:'
cat "$logs/waiting"
if ((failed)); then
    echo '==> failed:'
    grep -hE '^test .*FAILED$|^error' "$logs"/* || true
fi
exit "$failed"
