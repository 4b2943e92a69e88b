/* SPDX-License-Identifier: MIT */
/*
 * Sixty-four threads that allocate, fill, hand on and free each other's blocks.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define THREADS	64u
#define BLOCKS	512u
#define STEPS	3000u

/* Filled with its own length, all of it. */
struct block {
	size_t len;
	uint32_t words[];
};

static _Atomic(struct block *) shelf[BLOCKS];
static atomic_uint wrong;

static uint32_t next(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

static struct block *make(uint32_t *seed)
{
	size_t len = 1 + next(seed) % (next(seed) % 16 ? 500 : 60000);
	struct block *b = malloc(sizeof(*b) + len * sizeof(b->words[0]));

	if (!b)
		abort();
	b->len = len;
	for (size_t i = 0; i < len; i++)
		b->words[i] = (uint32_t)len;
	return b;
}

static void check(struct block *b)
{
	for (size_t i = 0; b && i < b->len; i++)
		if (b->words[i] != b->len)
			atomic_fetch_add(&wrong, 1);
	free(b);
}

static void *work(void *arg)
{
	uint32_t seed = (uint32_t)(uintptr_t)arg;

	for (unsigned int i = 0; i < STEPS; i++)
		check(atomic_exchange(&shelf[next(&seed) % BLOCKS], make(&seed)));
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];

	for (uintptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, work, (void *)(i + 1)))
			return 2;
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (unsigned int i = 0; i < BLOCKS; i++)
		check(shelf[i]);
	printf("%u wrong\n", wrong);
	return wrong != 0;
}
