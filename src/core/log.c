/* SPDX-License-Identifier: MIT */
#include "core/log.h"

#include <errno.h>
#include <stdarg.h>

#include "core/mm.h"

#define LINE_MAX_BYTES 256

struct line {
	char text[LINE_MAX_BYTES];
	size_t len;
};

static void put_char(struct line *l, char c)
{
	if (l->len < sizeof(l->text) - 1)
		l->text[l->len++] = c;
}

static void put_string(struct line *l, const char *s)
{
	for (; s && *s; s++)
		put_char(l, *s);
}

static void put_number(struct line *l, uint64_t n, unsigned int base)
{
	char digits[20];
	int i = 0;

	do {
		digits[i++] = "0123456789abcdef"[n % base];
		n /= base;
	} while (n);
	while (i)
		put_char(l, digits[--i]);
}

static void put_signed(struct line *l, int n)
{
	if (n < 0)
		put_char(l, '-');
	put_number(l, n < 0 ? (uint64_t)-(int64_t)n : (uint64_t)n, 10);
}

static void format(struct line *l, const char *fmt, va_list args)
{
	for (; *fmt; fmt++) {
		if (*fmt != '%') {
			put_char(l, *fmt);
			continue;
		}
		switch (*++fmt) {
		case 's': put_string(l, va_arg(args, const char *)); break;
		case 'd': put_signed(l, va_arg(args, int)); break;
		case 'u': put_number(l, va_arg(args, uint32_t), 10); break;
		case 'l': put_number(l, va_arg(args, uint64_t), 10); break;
		case 'x': put_number(l, va_arg(args, uint64_t), 16); break;
		default: return;
		}
	}
}

void core_log(const struct hmm_mm *mm, enum hmm_log_level level, const char *fmt, ...)
{
	struct line l = { .len = 0 };
	va_list args;

	va_start(args, fmt);
	format(&l, fmt, args);
	va_end(args);
	l.text[l.len] = '\0';
	if (mm && mm->log)
		mm->log(mm->log_ctx, level, l.text);
	else if (level != HMM_LOG_INFO)
		sys_write_stderr(l.text);
}

const char *errno_name(int error)
{
	static const struct {
		int error;
		const char *name;
	} names[] = {
		{ EINVAL, "-EINVAL" }, { EFAULT, "-EFAULT" }, { EPERM, "-EPERM" },
		{ EBUSY, "-EBUSY" }, { EAGAIN, "-EAGAIN" }, { EIO, "-EIO" },
		{ ENOMEM, "-ENOMEM" }, { ENOSPC, "-ENOSPC" }, { ENOENT, "-ENOENT" },
		{ ESRCH, "-ESRCH" }, { EEXIST, "-EEXIST" }, { EOPNOTSUPP, "-EOPNOTSUPP" },
		{ EACCES, "-EACCES" }, { ENOSYS, "-ENOSYS" }, { ETIMEDOUT, "-ETIMEDOUT" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].error == -error)
			return names[i].name;
	return "an error";
}
