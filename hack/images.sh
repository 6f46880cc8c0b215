#!/usr/bin/env bash
# Builds both binaries and packs the images: build/images/{operator,proxy}.tar, what the demo and the tests run beside them
# (postgres.tar, tools.tar), and the root directories that the Dockerfile copies. It writes under build/ and target/ only,
# and needs neither Docker nor a registry. PROFILE=release (default) or dev.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${PROFILE:-release}
folder=$profile
[[ $profile == dev ]] && folder=debug
target=${CARGO_TARGET_DIR:-target}

# For tests what they need is built as they build it: a selection of packages has dependencies of its own, with other
# features. What is released has no more than it needs.
selection=(--package sallyport-operator --package sallyport-proxy)
[[ $profile == dev ]] && selection=(--workspace --bin sallyport-operator --bin sallyport-proxy)
cargo build --profile "$profile" "${selection[@]}"
cargo build --workspace --bin sallyport-cluster
harness=$target/debug/sallyport-cluster
for part in operator proxy; do
  "$harness" image --name "sallyport-$part:dev" --binary "$target/$folder/sallyport-$part" \
    --out "build/images/$part.tar" --root "build/images/$part"
done
"$harness" image --name sallyport-postgres:dev --postgres --out build/images/postgres.tar
"$harness" image --name sallyport/tools:dev --out build/images/tools.tar
