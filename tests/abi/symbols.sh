#!/bin/sh
# SPDX-License-Identifier: MIT
#
# What the public headers declare, what the symbol map names and what the library
# exports is one list, and each of it begins with hmm_.
#
# usage: symbols.sh INCLUDE-FOLDER MAP LIBRARY [--only HEADER | --without HEADER]
set -u
LC_ALL=C
export LC_ALL
include=$1 map=$2 library=$3
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
command -v gcc >/dev/null || { echo "SKIP: gcc lists the declarations and is not here"; exit 77; }

# gcc writes every declaration it has seen with its file; inline functions are static.
for header in "$include"/uhmm/*.h; do
	echo "#include <uhmm/$(basename "$header")>"
done >"$tmp/all.c"
gcc -I"$include" -aux-info "$tmp/seen" -c "$tmp/all.c" -o "$tmp/all.o" || exit 1
case ${4-} in
--only)	wanted() { [ "$1" = "$2" ]; } ;;
*)	wanted() { [ "$1" != "$2" ]; } ;;
esac
for header in "$include"/uhmm/*.h; do
	name=$(basename "$header")
	wanted "$name" "${5-}" || continue
	sed -n "s|^/\* $include/uhmm/$name:.* extern [^(]*[ *]\([a-z_0-9]*\) (.*|\1|p" "$tmp/seen"
done | sort -u >"$tmp/declared"

sed -n 's/^[[:space:]]*\([a-z_0-9]*\);$/\1/p' "$map" | sort >"$tmp/mapped"

# Versioned functions and data; the version node itself is an absolute symbol.
readelf --dyn-syms -W "$library" |
	awk '$7 != "UND" && $7 != "ABS" && $8 ~ /@@/ { sub(/@@.*/, "", $8); print $8 }' |
	sort >"$tmp/exported"

bad=0
differ() {	# ONE-LIST OTHER-LIST
	for name in $(comm -23 "$tmp/$1" "$tmp/$2"); do
		echo "FAIL: $name is $1 and not $2"
		bad=1
	done
}
differ declared mapped
differ mapped declared
differ mapped exported
differ exported mapped
if grep -v '^hmm_' "$tmp/exported"; then
	echo "FAIL: exported names that are not ours"
	bad=1
fi
[ -s "$tmp/declared" ] || { echo "FAIL: no declaration found"; bad=1; }
echo "$(wc -l <"$tmp/declared") functions"
exit $bad
