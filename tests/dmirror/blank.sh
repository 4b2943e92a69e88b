#!/bin/sh
# SPDX-License-Identifier: MIT
#
# A library that LD_PRELOAD cannot name is refused, and the program is not started.
#
# usage: blank.sh UHMM LIBRARY
set -u
uhmm=$1 library=$2
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
bad=0

try() {	# NAME STATUS
	mkdir -p "$tmp/$1/tools/uhmm" "$tmp/$1/drivers"
	cp "$uhmm" "$tmp/$1/tools/uhmm/"
	ln -s "$(dirname "$library")" "$tmp/$1/drivers/dmirror"	# a folder: it looks for others beside it
	said=$("$tmp/$1/tools/uhmm/uhmm" dmirror -- echo started 2>&1)
	status=$?
	if [ $status -eq 125 ] && [ "${said#*uhmm doctor}" != "$said" ]; then
		echo "SKIP: $said"
		exit 77
	fi
	[ $status -eq "$2" ] && return
	echo "FAIL: in '$1': exit status $status, not $2: $said"
	bad=1
}

try plain 0
try 'a b' 125
try 'a:b' 125
# shellcheck disable=SC2016  # the name is to have a $
try 'a$LIB' 125
exit $bad
