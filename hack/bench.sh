#!/usr/bin/env bash
# Runs the benchmarks with release builds of both programs; the bench itself only measures. SECONDS_A_RUN sets how long
# each pgbench run lasts (default 4), IDENTITIES how many the operator meets (default 10000), TABLE picks one table.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
cargo build --release --package sallyport-operator --package sallyport-proxy
# Of the whole workspace: a selection of one package would build its dependencies anew with other features.
cargo build --workspace --bin sallyport-bench
export SALLYPORT_PROXY_BIN=$PWD/$target/release/sallyport-proxy SALLYPORT_OPERATOR_BIN=$PWD/$target/release/sallyport-operator
exec "$target/debug/sallyport-bench" "${SECONDS_A_RUN:-4}" ${TABLE:+"$TABLE"}
