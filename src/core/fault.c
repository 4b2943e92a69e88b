/* SPDX-License-Identifier: MIT */
#include "core/fault.h"

#include "core/mm.h"
#include "core/times.h"
#include "core/trace.h"

static void trace_fault(struct hmm_mm *mm, const struct fault *f, uint64_t end_ns, size_t pages)
{
	struct hmm_trace_event event = {
		.type = HMM_TRACE_FAULT, .what = f->kind, .begin_ns = f->read_ns, .end_ns = end_ns,
		.start = f->addr, .end = f->addr + mm->page, .thread = f->tid,
		.pages = (int64_t)pages, .result = f->write,
	};

	trace_event(mm, &event);
}

void fault_served(struct hmm_mm *mm, const struct fault *f)
{
	const uint64_t now = sys_now_ns();

	lock_assert_held(&mm->lock);
	times_record(&mm->fault_times, now - f->read_ns);
	if (tracing(mm))
		trace_fault(mm, f, now, 0);
}

void fault_ended(struct hmm_mm *mm, const struct fault *f, size_t pages)
{
	lock_assert_held(&mm->lock);
	if (tracing(mm))
		trace_fault(mm, f, sys_now_ns(), pages);
}
