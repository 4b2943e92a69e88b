#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The kit finds each promise that a driver breaks, and says which; a driver that breaks
# none it leaves alone.
#
# usage: broken.sh HMM-DRIVER-TEST BROKEN.SO
set -u
kit=$1 driver=$2
tmp=$(mktemp) || exit 1
trap 'rm -f "$tmp"' EXIT
bad=0 found=0

"$kit" "$driver" open >"$tmp" 2>&1
case $? in
0)	;;
77)	tail -n 1 "$tmp"; exit 77 ;;
*)	cat "$tmp"; exit 1 ;;
esac

# PROMISE BREAKS TRIAL MODE; a mode that this machine has no mm for is passed over.
# What never ends is waited for shortly, what is slow on a busy machine is not cut off.
while read -r promise breaks trial mode; do
	case $breaks in ends) timeout=3 ;; *) timeout=60 ;; esac
	"$kit" --timeout $timeout --seed 1 "$driver:breaks=$breaks" "$trial" >"$tmp" 2>&1
	status=$?
	text=$("$kit" --promises | sed -n "s/^$promise  //p")
	if [ "$mode" = strict ] && grep -q "^- .*strict.*no mm of this kind" "$tmp"; then
		continue
	fi
	if [ $status -eq 1 ] && [ -n "$text" ] && grep -qF "$promise: $text" "$tmp"; then
		found=$((found + 1))
		continue
	fi
	echo "FAIL: breaks=$breaks in $trial: status $status, not \"$promise: $text\""
	cat "$tmp"
	bad=1
done <<END
D1 bytes bytes any
D2 zeros holes any
D3 alloc touches any
D4 free fill any
D5 arrives bytes any
D6 once bytes any
D7 buffers bytes any
D8 safe bytes any
D9 errors copies-fail any
D10 sees sight strict
D11 stops stale strict
D12 rights rights any
D13 atomic atomics strict
D14 closes open any
D15 ends bytes any
D16 stands bytes any
END
echo "$found promises seen broken"
exit $bad
