/* SPDX-License-Identifier: MIT */
/*
 * What the files of programs and libraries say, as far as it is needed.
 */
#ifndef UHMM_SYS_IMAGE_H
#define UHMM_SYS_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A program of this architecture that starts without a dynamic linker, and is none. */
bool sys_image_is_static(int fd);

struct sys_relocation;

/* A library as it is to lie in memory. */
struct sys_image {
	char *bytes;		/* malloc()ed; not relocated */
	size_t size;		/* whole pages */
	size_t entry;		/* offset of its entry point */
	size_t text, text_end;	/* what of it is code: offsets, whole pages */
	struct sys_relocation *relocations;
	size_t nr_relocations;
};

/*
 * One that needs no other: its undefined symbols are weak, and stay 0. -ENOEXEC: it is
 * none such, or has more than 1 MiB; -ENOENT and the like.
 */
int sys_image_load(const char *path, struct sys_image *out);

/* A copy for address @base, malloc()ed; NULL: no memory. */
char *sys_image_at(const struct sys_image *image, uint64_t base);

#endif
