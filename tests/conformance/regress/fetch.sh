#!/usr/bin/env bash
# The regression suite of this machine's PostgreSQL, from the distribution's source package: fetch.sh FOLDER.
#
# It writes sql/, expected/, data/, the schedule and regress.so (the suite's own C functions) into FOLDER, and touches
# nothing else: the lists of packages and the packages are kept in a directory of its own and thrown away. It needs no
# root and changes no configuration of the machine. The version is the installed server's; where the archive has that
# no more, the release's own. Fails loudly when there is none.
set -euo pipefail
home=$1
major=15
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p lists/partial cache/archives/partial sources headers

for part in 'http://deb.debian.org/debian bookworm' 'http://deb.debian.org/debian-security bookworm-security'; do
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $part main"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $part main"
done >sources/suite.list
apt() {
    "$@" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources" -o Dir::State::lists="$work/lists" \
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3
}
get() { apt apt-get --quiet=2 "${@:2}" "$1"; }

apt apt-get --quiet=2 update
installed=$(dpkg-query --show --showformat='${Version}' "postgresql-$major")
offered=$(apt apt-cache showsrc "postgresql-$major" | sed -n 's/^Version: //p')
for version in "$installed" $offered; do
    if get "postgresql-$major=$version" source --download-only && get "postgresql-server-dev-$major=$version" download; then
        echo "$version" >"$home/version"
        break
    fi
done
[[ -s $home/version ]] || { echo "the archive has no source of PostgreSQL $major: tried $installed $offered" >&2; exit 1; }

tar -xjf postgresql-"$major"_*.orig.tar.bz2 --strip-components=4 --directory "$home" --wildcards '*/src/test/regress/*'
dpkg-deb --extract postgresql-server-dev-"$major"_*.deb headers
cc -O1 -fPIC -shared -I "headers/usr/include/postgresql/$major/server" -o "$home/regress.so" "$home/regress.c"
# The server's account reads these.
chmod -R a+rX "$home"
