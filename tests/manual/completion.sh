#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Completion offers what the programs have.
#
# usage: completion.sh FOLDER UHMM [HMM-DRIVER-TEST]
set -u
folder=$1
. "$folder/uhmm"
. "$folder/hmm-driver-test"
bad=0

offers() {	# FUNCTION WANTED WORD...; completes the last word
	local function=$1 wanted=$2; shift 2
	COMP_WORDS=("$@")
	COMP_CWORD=$(($# - 1))
	$function
	for word in $wanted; do
		[[ " ${COMPREPLY[*]} " == *" $word "* ]] && continue
		echo "FAIL: $* offers '${COMPREPLY[*]}', not $word"
		bad=1
	done
}

offers _uhmm "doctor devices bench --version" "$2" ""
offers _uhmm "doctor devices" "$2" "d"
offers _uhmm "--json --help" "$2" doctor "--"
offers _uhmm "--list --quick" "$2" bench "-"
offers _uhmm "cpu_fault cpu_fault_p99" "$2" bench "cpu_f"
offers _uhmm "--svg --json" "$2" map "-"
offers _uhmm "sort" "$2" run "sor"
if [ -n "${3-}" ]; then
	offers _hmm_driver_test "--seed --list" "$3" "--"
	offers _hmm_driver_test "bytes" "$3" --seed 1 ./x.so "by"
	offers _hmm_driver_test "storm stale" "$3" soft "st"
fi
exit $bad
