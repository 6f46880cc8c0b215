#!/usr/bin/env bash
# Fuzz targets with libFuzzer, one after the other: `fuzz.sh run <seconds> <target>...`, or `fuzz.sh keep <target>...`.
#
# They need a nightly compiler and cargo-fuzz, which nothing else does: what is missing is installed into the project's
# own cache, once. New inputs and what breaks a law lie in build/fuzz; git holds only what `keep` makes of them.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${SALLYPORT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sallyport}
toolchain=${FUZZ_TOOLCHAIN:-nightly}
version=0.13.2
crate=proxy/protocols/postgres/fuzz
work=$PWD/build/fuzz

# Of one target in git, at most: enough to reach everything that was ever reached.
most_files=800 most_bytes=160000

if ! rustup toolchain list | grep -q "^$toolchain"; then
    export RUSTUP_HOME=$cache/tools/rustup
    if ! rustup toolchain list 2>/dev/null | grep -q "^$toolchain"; then
        echo "installing the $toolchain toolchain into $RUSTUP_HOME, once"
        rustup toolchain install "$toolchain" --profile minimal --no-self-update
    fi
fi
if [[ ! -x $cache/tools/bin/cargo-fuzz ]]; then
    echo "installing cargo-fuzz $version into $cache/tools, once (about a minute)"
    CARGO_TARGET_DIR=$cache/tools/target CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        cargo install cargo-fuzz --locked --version "$version" --root "$cache/tools"
    rm -rf "$cache/tools/target"
fi

fuzz() {
    local verb=$1
    shift
    PATH=$cache/tools/bin:$PATH cargo "+$toolchain" fuzz "$verb" --fuzz-dir "$crate" --target-dir "$work/target" "$@"
}

# What is fuzzed has the dependencies that are shipped.
cp Cargo.lock "$crate/Cargo.lock"
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0}
limits=(-max_len=4096 -timeout=10 -rss_limit_mb=2048)

run() {
    local seconds=$1 target failed=0
    shift
    for target in "$@"; do
        mkdir -p "$work/corpus/$target" "$work/artifacts"
        echo "==> $target, $seconds seconds"
        # Where it does not compile, this ends here: the run below is read for its findings alone.
        fuzz build "$target"
        fuzz run "$target" "$work/corpus/$target" "$crate/corpus/$target" -- "${limits[@]}" \
            -max_total_time="$seconds" -print_final_stats=1 -artifact_prefix="$work/artifacts/$target-" 2>&1 |
            grep -aE 'panicked|assertion|left:|right:|ERROR|INITED|DONE|^stat::number|Test unit written' -A1 || true
        if compgen -G "$work/artifacts/$target-*" >/dev/null; then
            failed=1
        fi
    done
    if ((failed)); then
        echo "a law is broken by what lies in build/fuzz/artifacts: it belongs into $crate/found/<target>, once it is mended"
    fi
    return "$failed"
}

# Takes of all inputs the fewest that reach what all reach, the smallest first, up to the bounds above.
keep() {
    local target merged file bytes size
    for target in "$@"; do
        merged=$(mktemp -d)
        fuzz run "$target" "$merged" "$work/corpus/$target" "$crate/corpus/$target" -- "${limits[@]}" \
            -max_len=512 -set_cover_merge=1 >"$work/merge-$target.log" 2>&1
        rm -rf "${crate:?}/corpus/$target"
        mkdir -p "$crate/corpus/$target"
        bytes=0
        while read -r size file; do
            bytes=$((bytes + size))
            ((bytes <= most_bytes)) || break
            cp "$merged/$file" "$crate/corpus/$target/${file:0:12}"
        done < <(find "$merged" -type f -printf '%s %f\n' | sort -n | head -n "$most_files")
        rm -rf "$merged"
        echo "$target: $(find "$crate/corpus/$target" -type f | wc -l) inputs are kept"
    done
}

"$@"
