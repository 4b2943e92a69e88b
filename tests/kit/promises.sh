#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The guide lists the promises that the kit tries, in its words.
#
# usage: promises.sh HMM-DRIVER-TEST GUIDE
set -u
kit=$1 guide=$2
tmp=$(mktemp) || exit 1
trap 'rm -f "$tmp"' EXIT
"$kit" --promises | sed 's/^\(D[0-9]*\)  \(.*\)/\1: \2./' >"$tmp"
[ -s "$tmp" ] || { echo "FAIL: the kit lists nothing"; exit 1; }
sed -n 's/^[0-9]*\. \(D[0-9]*: .*\)/\1/p' "$guide" | diff "$tmp" - || {
	echo "FAIL: the promises of the kit (<) are not those of $guide (>)"
	exit 1
}
