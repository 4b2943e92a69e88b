#!/bin/sh
# SPDX-License-Identifier: MIT
#
# What Linux's own HMM answered to random requests (answers.linux, made by
# scripts/differential), `uhmm dmirror` answers too.
#
# usage: answers.sh UHMM ANSWERS ANSWERS.LINUX SEEDS
set -u
uhmm=$1 answers=$2 recorded=$3 seeds=$4

skip() {
	echo "SKIP: $1"
	exit 77
}

# Of 4 KiB pages, and where nothing is missing that an answer depends on.
[ "$(getconf PAGESIZE)" -eq 4096 ] || skip "the answers are of pages of 4 KiB"
caps=$("$uhmm" doctor --json) || skip "$(echo "$caps" | tail -n 1)"
for cap in seccomp-notify uffdio-move pagemap-scan procmap-query; do
	echo "$caps" | grep -q "\"name\": \"$cap\".*\"have\": true" || skip "this kernel lacks $cap"
done
text=$("$uhmm" dmirror -- "$answers" 0 0)
[ $? -ne 77 ] || skip "${text#SKIP: }"
for seed in $(seq "$seeds"); do
	sum=$("$uhmm" dmirror -- "$answers" "$seed" 2000 | cksum)
	if ! grep -qx "$seed $sum" "$recorded"; then
		echo "seed $seed: $sum is not what Linux answered; scripts/kernels amd64-7.3 tells where"
		exit 1
	fi
done
