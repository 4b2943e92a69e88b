// SPDX-License-Identifier: MIT
#include "sys/image.h"

#include <elf.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "sys/internal.h"
#include "sys/sys.h"

#define PHDRS_MAX	64
#define IMAGE_MAX	(1UL << 20)
#define DYNAMIC_MAX	256	/* entries */

#ifndef DT_RELR
#define DT_RELR		36
#endif

#if defined(__x86_64__)
#define MACHINE		EM_X86_64
#define RELATIVE	R_X86_64_RELATIVE
#elif defined(__aarch64__)
#define MACHINE		EM_AARCH64
#define RELATIVE	R_AARCH64_RELATIVE
#else
#error "which ELF machine?"
#endif

struct heads {
	Elf64_Ehdr ehdr;
	Elf64_Phdr phdr[PHDRS_MAX];
};

static bool read_at(int fd, void *dst, size_t len, uint64_t offset)
{
	return offset <= INT64_MAX &&
	       sys_ret(pread(fd, dst, len, (off_t)offset)) == (ssize_t)len;
}

static bool read_heads(int fd, struct heads *heads)
{
	const Elf64_Ehdr *e = &heads->ehdr;

	return read_at(fd, &heads->ehdr, sizeof(heads->ehdr), 0) &&
	       memcmp(e->e_ident, ELFMAG, SELFMAG) == 0 && e->e_ident[EI_CLASS] == ELFCLASS64 &&
	       e->e_machine == MACHINE && e->e_phentsize == sizeof(heads->phdr[0]) &&
	       e->e_phnum <= PHDRS_MAX &&
	       read_at(fd, heads->phdr, e->e_phnum * sizeof(heads->phdr[0]), e->e_phoff);
}

static const Elf64_Phdr *segment(const struct heads *heads, uint32_t type)
{
	for (unsigned int i = 0; i < heads->ehdr.e_phnum; i++)
		if (heads->phdr[i].p_type == type)
			return &heads->phdr[i];
	return NULL;
}

/* A dynamic linker is a library without an interpreter; a static-pie program says what it is. */
static bool says_program(int fd, const struct heads *heads)
{
	const Elf64_Phdr *dynamic = segment(heads, PT_DYNAMIC);
	Elf64_Dyn entry;

	for (size_t i = 0; dynamic && i < DYNAMIC_MAX && i < dynamic->p_filesz / sizeof(entry); i++) {
		if (!read_at(fd, &entry, sizeof(entry), dynamic->p_offset + i * sizeof(entry)) ||
		    entry.d_tag == DT_NULL)
			return false;
		if (entry.d_tag == DT_FLAGS_1)
			return entry.d_un.d_val & DF_1_PIE;
	}
	return false;
}

bool sys_image_is_static(int fd)
{
	struct heads heads;

	if (!read_heads(fd, &heads) || segment(&heads, PT_INTERP))
		return false;
	return heads.ehdr.e_type == ET_EXEC ||
	       (heads.ehdr.e_type == ET_DYN && says_program(fd, &heads));
}

static bool fits(const Elf64_Phdr *load)
{
	return load->p_filesz <= load->p_memsz && load->p_memsz <= IMAGE_MAX &&
	       load->p_vaddr <= IMAGE_MAX - load->p_memsz;
}

static bool place_segments(int fd, const struct heads *heads, struct sys_image *image)
{
	const size_t page = sys_page_size();

	for (unsigned int i = 0; i < heads->ehdr.e_phnum; i++) {
		const Elf64_Phdr *load = &heads->phdr[i];

		if (load->p_type != PT_LOAD)
			continue;
		if (!fits(load) || !read_at(fd, image->bytes + load->p_vaddr, load->p_filesz,
					    load->p_offset))
			return false;
		if (load->p_vaddr + load->p_memsz > image->size)
			image->size = load->p_vaddr + load->p_memsz;
		if (load->p_flags & PF_X) {
			image->text = load->p_vaddr & ~(page - 1);
			image->text_end = (load->p_vaddr + load->p_memsz + page - 1) & ~(page - 1);
		}
	}
	image->size = (image->size + page - 1) & ~(page - 1);
	image->entry = heads->ehdr.e_entry;
	return image->entry >= image->text && image->entry < image->text_end;
}

/* ---------------------------------------------------------------- relocations */

struct sys_relocation {
	size_t at;
	uint64_t addend;
};

struct tables {
	uint64_t rela, rela_bytes, symbols;
};

/* [at, at + len) of the image; NULL: there is no such thing. */
static const void *inside(const struct sys_image *image, uint64_t at, uint64_t len)
{
	return at <= image->size && len <= image->size - at ? image->bytes + at : NULL;
}

/* False: it has some that are not known here. */
static bool find_tables(const struct sys_image *image, const Elf64_Phdr *dynamic,
			struct tables *out)
{
	const Elf64_Dyn *entry = inside(image, dynamic->p_vaddr, dynamic->p_memsz);
	const size_t nr = dynamic->p_memsz / sizeof(*entry);

	memset(out, 0, sizeof(*out));
	for (size_t i = 0; entry && i < nr && entry[i].d_tag != DT_NULL; i++) {
		switch (entry[i].d_tag) {
		case DT_RELA:
			out->rela = entry[i].d_un.d_ptr;
			break;
		case DT_RELASZ:
			out->rela_bytes = entry[i].d_un.d_val;
			break;
		case DT_SYMTAB:
			out->symbols = entry[i].d_un.d_ptr;
			break;
		case DT_REL:
		case DT_RELR:
		case DT_JMPREL:
			return false;
		default:
			break;
		}
	}
	return entry != NULL;
}

/* An address of its own is noted; a symbol that is nowhere is 0, as it lies there. */
static bool note(struct sys_image *image, const struct tables *tables, const Elf64_Rela *rela)
{
	const Elf64_Sym *symbol = inside(image, tables->symbols +
					 ELF64_R_SYM(rela->r_info) * sizeof(*symbol), sizeof(*symbol));

	if (!inside(image, rela->r_offset, sizeof(uint64_t)))
		return false;
	if (ELF64_R_TYPE(rela->r_info) != RELATIVE)
		return symbol && symbol->st_shndx == SHN_UNDEF &&
		       ELF64_ST_BIND(symbol->st_info) == STB_WEAK;
	image->relocations[image->nr_relocations++] = (struct sys_relocation){
		.at = rela->r_offset, .addend = (uint64_t)rela->r_addend,
	};
	return true;
}

static bool note_relocations(struct sys_image *image, const struct heads *heads)
{
	const Elf64_Phdr *dynamic = segment(heads, PT_DYNAMIC);
	const Elf64_Rela *rela;
	struct tables tables;
	size_t nr;

	if (!dynamic || !find_tables(image, dynamic, &tables))
		return false;
	rela = inside(image, tables.rela, tables.rela_bytes);
	nr = tables.rela_bytes / sizeof(*rela);
	image->relocations = calloc(nr + 1, sizeof(*image->relocations));
	for (size_t i = 0; image->relocations && rela && i < nr; i++)
		if (!note(image, &tables, &rela[i]))
			return false;
	return image->relocations && rela;
}

char *sys_image_at(const struct sys_image *image, uint64_t base)
{
	char *copy = malloc(image->size);

	if (!copy)
		return NULL;
	memcpy(copy, image->bytes, image->size);
	for (size_t i = 0; i < image->nr_relocations; i++) {
		const uint64_t value = base + image->relocations[i].addend;

		memcpy(copy + image->relocations[i].at, &value, sizeof(value));
	}
	return copy;
}

/* ---------------------------------------------------------------- loading */

int sys_image_load(const char *path, struct sys_image *out)
{
	struct heads heads;
	int fd = (int)sys_ret(open(path, O_RDONLY | O_CLOEXEC));
	int ret = -ENOEXEC;

	if (fd < 0)
		return fd;
	memset(out, 0, sizeof(*out));
	out->bytes = calloc(1, IMAGE_MAX);
	if (!out->bytes)
		ret = -ENOMEM;
	else if (read_heads(fd, &heads) && heads.ehdr.e_type == ET_DYN &&
		 place_segments(fd, &heads, out) && note_relocations(out, &heads))
		ret = 0;
	if (ret) {
		free(out->bytes);
		free(out->relocations);
	}
	close(fd);
	return ret;
}
