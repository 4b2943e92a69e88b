/* SPDX-License-Identifier: MIT */
/*
 * Encryption of pages: AES-256-GCM under a key made for this device, that lies in this
 * process alone and goes with it.
 *
 * The nonce of a page is the number of its write, which never comes twice; nonce and
 * tag stay here. So a server that changes a page, swaps two, or hands out an older
 * version of one is found out, as if it had answered with garbage.
 */
#ifndef LINK_SEAL_H
#define LINK_SEAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SEAL_KEY	32
#define SEAL_TAG	16
#define SEAL_NONCE	12

/* 24 bytes per page, where one was written. A page's entry is its worker's. */
struct seal_entry {
	uint64_t write;
	uint8_t tag[SEAL_TAG];
};

struct seal {
	size_t page;
	_Atomic uint64_t writes;
	uint8_t *key;			/* locked into RAM, in no core dump */
	struct seal_entry *entry;	/* [pages]; NULL: pages are not encrypted */
};

/* A thread's own; NULL where pages are not encrypted. */
struct seal_thread;

int seal_init(struct seal *seal, uint64_t nr_pages, size_t page);
int seal_thread_init(const struct seal *seal, struct seal_thread **out);

/* In place. seal_open(): false, these are not the bytes that were written. */
int seal_close(struct seal *seal, struct seal_thread *thread, uint64_t index, void *bytes);
bool seal_open(const struct seal *seal, struct seal_thread *thread, uint64_t index, void *bytes);

#endif
