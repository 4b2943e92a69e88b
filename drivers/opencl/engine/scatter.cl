/* SPDX-License-Identifier: MIT */
/* Pages between where they are staged and where they belong, and pages of zeros; 16 bytes per item. */
#define PIECES	(HMM_PAGE_BYTES / 16)

__kernel void scatter(__global uint4 *pool, __global uint4 *staged, __global const ulong *index)
{
	ulong to = index[get_global_id(0) / PIECES];

	if (to != ~0UL)
		pool[to * PIECES + get_global_id(0) % PIECES] = staged[get_global_id(0)];
}

__kernel void gather(__global uint4 *pool, __global uint4 *staged, __global const ulong *index)
{
	ulong from = index[get_global_id(0) / PIECES];

	if (from != ~0UL)
		staged[get_global_id(0)] = pool[from * PIECES + get_global_id(0) % PIECES];
}

__kernel void clear(__global uint4 *pool, ulong first)
{
	pool[first + get_global_id(0)] = (uint4)(0);
}
