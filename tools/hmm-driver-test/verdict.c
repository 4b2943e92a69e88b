/* SPDX-License-Identifier: MIT */
#include "kit.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

struct verdict *verdict;

const char *promise_text(enum promise promise)
{
	static const char *const texts[PROMISES] = {
		[D_BYTES] = "what is copied to the device comes back unchanged",
		[D_ZEROS] = "a page that was a hole reads as zeros",
		[D_ALLOC] = "page_alloc hands out free pages of the device, and no page twice",
		[D_FREE] = "a page that was freed can be had again",
		[D_ARRIVES] = "what can migrate does while there is room",
		[D_ONCE] = "a copy ends once: by its return or by hmm_copy_done()",
		[D_BUFFERS] = "runs are the driver's until a copy returns, buffers until it ends",
		[D_SAFE] = "callbacks on the fault path allocate and map nothing",
		[D_ERRORS] = "what fails leaves every byte where it was",
		[D_SEES] = "CPU and device see each other's writes",
		[D_STOPS] = "once invalidate() has returned no old translation is used",
		[D_RIGHTS] = "the device has the program's rights, and errors say which is missing",
		[D_ATOMIC] = "a device's atomic is atomic for the CPU",
		[D_CLOSES] = "close() brings everything home and leaves nothing behind",
		[D_ENDS] = "every operation ends",
		[D_STANDS] = "the program survives its driver",
	};

	return promise > 0 && promise < PROMISES ? texts[promise] : "?";
}

void broke(enum promise promise, const char *fmt, ...)
{
	uint32_t none = 0;
	va_list args;

	if (atomic_compare_exchange_strong(&verdict->broken, &none, (uint32_t)promise)) {
		va_start(args, fmt);
		vsnprintf(verdict->detail, sizeof(verdict->detail), fmt, args);
		va_end(args);
		_exit(EXIT_BROKEN);
	}
	/* Somebody else was first and is on the way out; nothing may go on meanwhile. */
	for (;;)
		pause();
}

void doing(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(verdict->doing, sizeof(verdict->doing), fmt, args);
	va_end(args);
}

void note(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(verdict->note, sizeof(verdict->note), fmt, args);
	va_end(args);
}

void not_offered(const char *what)
{
	note("%s", what);
	_exit(EXIT_SKIP);
}

void cannot(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(verdict->note, sizeof(verdict->note), fmt, args);
	va_end(args);
	_exit(EXIT_CANNOT);
}
