#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The driver test kit, which every driver passes, on a real server.
#
# usage: kit.sh HMM-DRIVER-TEST NBD.SO
set -u
kit=$1 plugin=$2
command -v nbdkit >/dev/null || { echo "nbdkit is not installed"; exit 77; }
tmp=$(mktemp -d) || exit 1
nbdkit -f -U "$tmp/s" memory 256M 2>/dev/null &
server=$!
trap 'kill $server; rm -rf "$tmp"' EXIT
tries=0
while ! [ -S "$tmp/s" ] && [ $tries -lt 200 ]; do
	sleep 0.05
	tries=$((tries + 1))
done
# All trials but those that open a second device with the same options: an export holds one.
"$kit" "$plugin:uri=nbd+unix:///?socket=$tmp/s" open bytes holes touches syscalls fill changes \
	fork copies-fail no-room lost removal storm
