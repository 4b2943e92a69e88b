#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Each public header compiles alone, as C and as C++, with every compiler that is
# here, and twice in one file.
#
# usage: headers.sh INCLUDE-FOLDER
set -u
include=$1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
bad=0 tried=0

alone() {	# COMPILER LANGUAGE STANDARD
	command -v "$1" >/dev/null || return 0
	for header in "$include"/uhmm/*.h; do
		name=uhmm/$(basename "$header")
		printf '#include <%s>\n#include <%s>\nint nothing;\n' "$name" "$name" >"$tmp/alone"
		tried=$((tried + 1))
		"$1" -x "$2" -std="$3" -Wall -Wextra -Wundef -Werror -I"$include" \
			-fsyntax-only "$tmp/alone" && continue
		echo "FAIL: $name does not stand alone: $1 -std=$3"
		bad=1
	done
}

alone gcc c c99
alone gcc c gnu17
alone clang c c99
alone clang c gnu17
alone g++ c++ c++11
alone g++ c++ c++20
alone clang++ c++ c++11
alone clang++ c++ c++20

[ $tried -gt 0 ] || { echo "SKIP: no compiler in PATH"; exit 77; }
echo "$tried compilations"
exit $bad
