/* SPDX-License-Identifier: MIT */
/*
 * Each kernel twice: through the program's pointers, and on one plain buffer that has
 * a copy of the same arena. The text is the same but for these macros.
 */
#ifdef PLAIN
#define ARGS		__global uchar *base, ulong origin
#define BEGIN
#define END
#define ITEM		((uint)get_global_id(0))
#define VIEW(v)
#define U8(v, p)	base[(p) - origin]
#define U32(v, p)	(*(__global const uint *)(base + ((p) - origin)))
#define U64(v, p)	(*(__global const ulong *)(base + ((p) - origin)))
#define PUT64(p, x)	(*(__global ulong *)(base + ((p) - origin)) = (x))
#define SPAN(p, n, got)	(*(got) = (n), base + ((p) - origin))
#define WINDOW(v, p, n)	true
#define W32(v, p)	U32(v, p)
#else
#include <uhmm/device.clh>
#define ARGS		HMM_ARGS
#define BEGIN		HMM_BEGIN(hmm);
#define END		HMM_END(hmm);
#define ITEM		hmm_item(hmm)
#define VIEW(v)		HMM_VIEW(v);
#define U8(v, p)	hmm_view_load_uchar(hmm, v, p)
#define U32(v, p)	hmm_view_load_uint(hmm, v, p)
#define U64(v, p)	hmm_view_load_ulong(hmm, v, p)
#define PUT64(p, x)	hmm_store_ulong(hmm, p, x)
#define SPAN(p, n, got)	hmm_span(hmm, p, n, got)
#define WINDOW(v, p, n)	hmm_window(hmm, v, p, n)
#define W32(v, p)	hmm_window_load_uint(hmm, v, p)
#endif

/* One chain per item: struct { ulong next, value; } */
__kernel void chase(ARGS, ulong heads, ulong out)
{
	BEGIN
	VIEW(v)
	ulong sum = 0;
	ulong node = U64(v, heads + 8UL * ITEM);

	while (node) {
		sum += U64(v, node + 8);
		node = U64(v, node);
	}
	PUT64(out + 8UL * ITEM, sum);
	END
}

/* 64 KiB per item. */
__kernel void stream(ARGS, ulong from, ulong out)
{
	BEGIN
	ulong at = from + (ulong)ITEM * 65536, left = 65536, got, sum = 0;

	while (left) {
		__global const uint *piece = (__global const uint *)SPAN(at, left, &got);

		if (!got)
			break;
		for (ulong i = 0; i < got / 4; i++)
			sum += piece[i];
		at += got;
		left -= got;
	}
	PUT64(out + 8UL * ITEM, sum);
	END
}

/* 256 places of an index array per item. */
__kernel void gather(ARGS, ulong index, ulong data, ulong out)
{
	BEGIN
	VIEW(vi)
	VIEW(vd)
	ulong sum = 0;

	for (uint i = 0; i < 256; i++)
		sum += U32(vd, data + 4UL * U32(vi, index + 4UL * (ITEM * 256 + i)));
	PUT64(out + 8UL * ITEM, sum);
	END
}

/* The same where all of it is known to be there, with its row of the index as a span. */
__kernel void gather_window(ARGS, ulong index, ulong data, ulong out)
{
	BEGIN
	VIEW(vi)
	VIEW(vd)
	ulong sum = 0, got;
	__global const uint *row =
		(__global const uint *)SPAN(index + 1024UL * ITEM, 1024UL, &got);

	if (got == 1024 && WINDOW(vd, data, 32UL << 20))
		for (uint i = 0; i < 256; i++)
			sum += W32(vd, data + 4UL * row[i]);
	else
		for (uint i = 0; i < 256; i++)
			sum += U32(vd, data + 4UL * U32(vi, index + 4UL * (ITEM * 256 + i)));
	PUT64(out + 8UL * ITEM, sum);
	END
}

/* struct word { ulong next; uint len, count; char text[]; }, looked up by its text. */
__kernel void lookup(ARGS, ulong table, uint mask, ulong queries, ulong out)
{
	BEGIN
	VIEW(vq)
	VIEW(vt)
	VIEW(vw)
	ulong query = U64(vq, queries + 8UL * ITEM), word;
	uint len = U32(vq, query + 8), hash = 2166136261U, i;

	for (i = 0; i < len; i++)
		hash = (hash ^ U8(vq, query + 16 + i)) * 16777619U;
	word = U64(vt, table + 8UL * (hash & mask));
	while (word) {
		if (U32(vw, word + 8) == len) {
			for (i = 0; i < len; i++)
				if (U8(vw, word + 16 + i) != U8(vq, query + 16 + i))
					break;
			if (i == len)
				break;
		}
		word = U64(vw, word);
	}
	PUT64(out + 8UL * ITEM, word ? U32(vw, word + 12) : 0);
	END
}
