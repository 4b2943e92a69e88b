#!/bin/sh
# SPDX-License-Identifier: MIT
#
# An unmodified program under `uhmm run`, its memory on two servers that hold the same. They
# are killed in turns and started again, empty, as soon as the one before is filled again.
# The program does not notice.
#
# usage: restarts.sh UHMM, with UHMM_PLUGIN_PATH set
set -u
uhmm=$1
command -v nbdkit >/dev/null || { echo "nbdkit is not installed"; exit 77; }
tmp=$(mktemp -d) || exit 1
server_1='' server_2='' run=''
trap 'touch "$tmp/stop"; [ -z "$run" ] || kill "$run" 2>/dev/null
      kill $server_1 $server_2 2>/dev/null; wait; rm -rf "$tmp"' EXIT

start() {	# NUMBER
	rm -f "$tmp/s$1"
	nbdkit -f -U "$tmp/s$1" memory 1G 2>/dev/null &
	eval "server_$1=$!"
	until [ -S "$tmp/s$1" ]; do sleep 0.02; done
}

fail() {
	echo "$1"
	tail -n 30 "$tmp/said"
	exit 1
}

# How often it was said of a server.
said() {	# NUMBER TEXT
	grep -c "s$1: $2" "$tmp/said"
}

work='seq 1 60000 | rev | sort | sha1sum'
plain=$(sh -c "$work")
start 1
start 2
uri=nbd+unix:///?socket=$tmp/s
STOP=$tmp/stop "$uhmm" run --policy stress --report "$tmp/report" \
	--device "nbd:uri=${uri}1,uri2=${uri}2,mirror=2,timeout=120" -- \
	sh -c "until [ -e \"\$STOP\" ]; do $work; done" >"$tmp/out" 2>"$tmp/said" &
run=$!
until [ -s "$tmp/out" ]; do
	kill -0 $run 2>/dev/null || { wait $run; [ $? != 125 ] || { cat "$tmp/said"; exit 77; }; fail "it ended"; }
	sleep 0.1
done
for number in 1 2 1 2; do
	filled=$(said $number refilled)
	eval "kill -9 \$server_$number; wait \$server_$number" 2>/dev/null
	start $number
	tries=0
	until [ "$(said $number refilled)" -gt "$filled" ]; do
		kill -0 $run 2>/dev/null || fail "it ended when server $number was killed"
		[ $((tries += 1)) -lt 1000 ] || fail "server $number is not filled again"
		sleep 0.1
	done
done
touch "$tmp/stop"
wait $run || fail "exit status $?"
run=
[ "$(sort -u "$tmp/out")" = "$plain" ] || fail "other bytes: $(sort -u "$tmp/out")"
grep -q '"lost_pages": 0,' "$tmp/report" || fail "$(grep lost_pages "$tmp/report")"
grep -q '"pages_out": [1-9]' "$tmp/report" || fail "nothing was on the servers: $(cat "$tmp/report")"
echo "$(wc -l <"$tmp/out") times the same, servers killed 4 times"
