/* SPDX-License-Identifier: MIT */
/* Kernels of the OpenCL tests. Each has two arguments. */
#include <uhmm/device.clh>

#define PAGE_WORDS	512

/* As pattern() of world.c. */
ulong pattern(uint seed, ulong page_nr, ulong word)
{
	ulong x = (ulong)seed << 48 ^ page_nr << 16 ^ word;

	x += 0x9e3779b97f4a7c15UL;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9UL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebUL;
	return x ^ x >> 31;
}

/* Item i: is page i of @a the pattern of the seed that its first word tells? Counts in @b. */
__kernel void check(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	ulong first = hmm_load_ulong(hmm, a + (ulong)hmm_item(hmm) * PAGE_WORDS * 8);
	uint seed = 0, bad = 0;

	while (seed < 32 && pattern(seed, hmm_item(hmm), 0) != first)
		seed++;
	bad = seed == 32;
	for (uint i = 0; i < PAGE_WORDS && !hmm_stopped(hmm); i++)
		bad += hmm_load_ulong(hmm, a + ((ulong)hmm_item(hmm) * PAGE_WORDS + i) * 8) !=
		       pattern(seed, hmm_item(hmm), i);
	if (bad)
		hmm_atomic_add_uint(hmm, b, bad);
	HMM_END(hmm);
}

/* Item i: adds 1 to each word of @b bytes. Too many for the log: by a span, in one go. */
__kernel void add_one(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	ulong got, at = a + (ulong)hmm_item(hmm) * b;
	__global ulong *words = (__global ulong *)hmm_span_write(hmm, at, b, &got);

	/* One page is one piece: nothing stops after the first store. */
	for (uint i = 0; i < got / 8; i++)
		words[i]++;
	HMM_END(hmm);
}

/* Does not end. */
__kernel void forever(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	while (!hmm_stopped(hmm) && hmm_load_ulong(hmm, a) != b)
		;
	HMM_END(hmm);
}

__kernel void walk(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	ulong sum = 0;

	for (ulong node = a; node; node = hmm_load_ulong(hmm, node))
		sum += hmm_load_ulong(hmm, node + 8);
	hmm_store_ulong(hmm, b + 8 * hmm_item(hmm), sum);
	HMM_END(hmm);
}

__kernel void sizes(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	ulong p = a + (ulong)hmm_item(hmm) * 4096;
	uint bad = 0;

	for (uint i = 0; i < 4; i++)
		hmm_store_ulong(hmm, p + 64 * i, ~0UL);
	hmm_store_uchar(hmm, p, 0x11);
	hmm_store_ushort(hmm, p + 64, 0x2211);
	hmm_store_uint(hmm, p + 128, 0x44332211);
	hmm_store_ulong(hmm, p + 192, 0x8877665544332211UL);
	bad += hmm_load_uchar(hmm, p) != 0x11;
	bad += hmm_load_char(hmm, p + 1) != -1;
	bad += hmm_load_ulong(hmm, p) != 0xffffffffffffff11UL;
	bad += hmm_load_ushort(hmm, p + 64) != 0x2211;
	bad += hmm_load_uint(hmm, p + 64) != 0xffff2211;
	bad += hmm_load_int(hmm, p + 128) != 0x44332211;
	bad += hmm_load_uint(hmm, p + 196) != 0x88776655;
	bad += hmm_load_uchar(hmm, p + 199) != 0x88;
	hmm_atomic_or_ulong(hmm, p + 256, 5);
	hmm_atomic_or_ulong(hmm, p + 256, 10);
	bad += hmm_load_ulong(hmm, p + 256) != 15;
	hmm_atomic_max_uint(hmm, p + 320, 1);
	hmm_store_float(hmm, p + 324, 1.5f);
	bad += hmm_load_float(hmm, p + 324) != 1.5f;
	hmm_store_uint(hmm, p + 324, 3);
	bad += hmm_load_ulong(hmm, p + 328) != 0;
	if (bad)
		hmm_put_uint(hmm, b, bad);
	HMM_END(hmm);
}

__kernel void load_one(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	if (hmm_item(hmm) == b)
		hmm_load_ulong(hmm, a);
	HMM_END(hmm);
}

__kernel void store_one(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	if (hmm_item(hmm) == b)
		hmm_store_ulong(hmm, a, 1);
	HMM_END(hmm);
}

__kernel void many_stores(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	for (ulong i = 0; i < b; i++)
		hmm_store_ulong(hmm, a + 8 * i, i);
	HMM_END(hmm);
}

__kernel void half_atomic(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	hmm_atomic_add_ulong(hmm, a, b);
	hmm_load_uint(hmm, a);
	HMM_END(hmm);
}

/* Item i: adds 1 to eight words of its own, one in each eighth of @b bytes. */
__kernel void scattered_add(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	ulong part = b / 8;

	for (uint i = 0; i < 8; i++) {
		ulong at = a + i * part + (ulong)hmm_item(hmm) * 40503 * 8 % part;

		hmm_store_ulong(hmm, at, hmm_load_ulong(hmm, at) + 1);
	}
	HMM_END(hmm);
}

__kernel void add_to(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	hmm_atomic_add_ulong(hmm, a, b + 1);
	HMM_END(hmm);
}

__kernel void add_one_word(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	hmm_store_ulong(hmm, a, hmm_load_ulong(hmm, a) + 1 + b);
	HMM_END(hmm);
}

/* Item i: stores turn + 1 in the first half of page turn % @b. A turn is of 4096 items. */
__kernel void page_by_page(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	ulong turn = hmm_item(hmm) / 4096, word = hmm_item(hmm) % (PAGE_WORDS / 2);

	hmm_store_ulong(hmm, a + (turn % b * PAGE_WORDS + word) * 8, turn + 1);
	HMM_END(hmm);
}

/* Item i: stores i + 1 in a word of its own, one after the other in each of @b pages. */
__kernel void deal_out(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	hmm_store_ulong(hmm, a + (hmm_item(hmm) % b * PAGE_WORDS + hmm_item(hmm) / b) * 8,
			hmm_item(hmm) + 1);
	HMM_END(hmm);
}

__kernel void touch_blocks(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	ulong sum = 0;

	for (ulong i = 0; i < b; i++)
		sum += hmm_load_ulong(hmm, a + i * HMM_BLOCK);
	if (sum)
		hmm_store_ulong(hmm, a, sum);
	HMM_END(hmm);
}

__kernel void rmw_good(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	ulong at = a + 8 * hmm_item(hmm);

	hmm_store_ulong(hmm, at, hmm_load_ulong(hmm, at) + 1 + b);
	hmm_load_ulong(hmm, at);
	HMM_END(hmm);
}

__kernel void rmw_bad(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	ulong at = a + 8 * hmm_item(hmm);

	hmm_put_ulong(hmm, at, hmm_load_ulong(hmm, at) + 1 + b);
	hmm_load_ulong(hmm, at);
	HMM_END(hmm);
}

__kernel void returns(HMM_ARGS, ulong a, ulong b)
{
	HMM_BEGIN(hmm);
	if (hmm_item(hmm) == 5)
		return;
	hmm_store_ulong(hmm, a, b);
	HMM_END(hmm);
}
