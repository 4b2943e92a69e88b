#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The library has its probe where tools look for it, with a semaphore, so that it costs
# nothing while nobody looks; and nothing but libc stands behind it.
#
# usage: probe.sh LIBRARY
set -u
LC_ALL=C
export LC_ALL
command -v readelf >/dev/null || { echo "SKIP: readelf is not here"; exit 77; }

note=$(readelf -n "$1" | grep -A 4 NT_STAPSDT)
fail() {
	echo "FAIL: $1; the notes of the library:"
	readelf -n "$2"
	exit 1
}
echo "$note" | grep -q 'Provider: uhmm' || fail "no provider uhmm" "$1"
[ "$(echo "$note" | grep -c 'Name: event')" -eq 1 ] || fail "not one probe named event" "$1"
echo "$note" | grep -qE 'Semaphore: 0x0*[1-9a-f]' || fail "no semaphore" "$1"
[ "$(echo "$note" | sed -n 's/.*Arguments: //p' | wc -w)" -eq 9 ] || fail "not 9 arguments" "$1"
readelf -d "$1" | grep NEEDED | grep -vE '\[(libc|libm|libpthread|libdl|ld-linux[^]]*)\.so' &&
	fail "needs more than libc" "$1"
exit 0
