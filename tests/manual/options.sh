#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Each option that a command's --help names is in its manual page, and each option of the
# page in --help.
#
# usage: options.sh MAN-FOLDER UHMM [HMM-DRIVER-TEST]
set -u
man=$1 uhmm=$2 kit=${3-}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
bad=0

compare() {	# PAGE COMMAND...
	page=$1; shift
	"$@" --help | grep -oE '(^|[ [])--[a-z]+' | tr -d ' [' | sort -u >"$tmp/help"
	grep -oE '(Fl|\|) -[a-z]+' "$man/$page" | sed 's/.* /-/' | sort -u >"$tmp/page"
	[ -s "$tmp/help" ] || { echo "FAIL: $* --help names no option"; bad=1; }
	diff "$tmp/help" "$tmp/page" >"$tmp/diff" && return
	echo "FAIL: options of $* --help (<) and of $page (>) differ:"
	cat "$tmp/diff"
	bad=1
}

compare uhmm.1 "$uhmm"
for page in "$man"/uhmm-*.1; do
	command=$(basename "$page" .1)
	compare "$(basename "$page")" "$uhmm" "${command#uhmm-}"
done
[ -z "$kit" ] || compare hmm-driver-test.1 "$kit"
"$uhmm" --help | sed -n 's/^  \([a-z]*\) .*/\1/p' | while read -r command; do
	[ -f "$man/uhmm-$command.1" ] || echo "FAIL: uhmm $command has no manual page"
done | { ! grep .; } || bad=1
exit $bad
