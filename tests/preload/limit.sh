#!/bin/sh
# SPDX-License-Identifier: MIT
#
# On whatever device: a program whose threads allocate as fast as they can, and then go
# through all of it again, stays within a quarter more than it may have in RAM.
#
# usage: limit.sh DEVICE UHMM GUEST, with UHMM_PLUGIN_PATH set
set -u
device=$1 uhmm=$2 guest=$3 mib=16
tmp=$(mktemp -d) || exit 1
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$tmp"' EXIT

if [ "$device" = nbd ]; then
	command -v nbdkit >/dev/null || { echo "nbdkit is not installed"; exit 77; }
	nbdkit -f -U "$tmp/server" memory 1G 2>/dev/null &
	server=$!
	until [ -S "$tmp/server" ]; do sleep 0.02; done
	device=nbd:uri=nbd+unix:///?socket=$tmp/server
fi
for round in 1 2 3; do
	"$uhmm" run --device "$device" --dram ${mib}M --report "$tmp/report" -- \
		"$guest" allocate large 64 4 >"$tmp/kib" 2>"$tmp/said"
	case $? in
	0)	;;
	125)	tail -n 1 "$tmp/said"; exit 77 ;;
	*)	cat "$tmp/said"; exit 1 ;;
	esac
	# What the kernel counted at most when all was written and when all was read, and we.
	most=$(sed -n 's/.*"dram_bytes_peak": \([0-9]*\).*/\1/p' "$tmp/report")
	echo "round $round: $(xargs <"$tmp/kib") KiB, report $most"
	grep -q '"lost_pages": 0,' "$tmp/report" || exit 1
	for kib in $(cat "$tmp/kib") $((most / 1024)); do
		[ "$kib" -le $((mib * 1024 * 5 / 4)) ] || exit 1
	done
done
