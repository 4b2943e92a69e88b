/* SPDX-License-Identifier: MIT */
#include "core/lock.h"

#include <stddef.h>

/* Rounds of spinning: longer than a fault is served in, shorter than a wake-up. */
#define SPIN_ROUNDS 400

__thread struct thread_state thread_state __attribute__((tls_model("initial-exec")));

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

__attribute__((noinline, cold)) void lock_contended(struct hmm_lock *lock)
{
	for (int i = 0; i < SPIN_ROUNDS; i++) {
		uint32_t free = 0;

		if (atomic_load_explicit(&lock->word, memory_order_relaxed) == 0 &&
		    atomic_compare_exchange_weak_explicit(&lock->word, &free, 1,
							  memory_order_acquire,
							  memory_order_relaxed))
			return;
		cpu_relax();
	}
	/* Whoever slept takes it as 2: there may be others asleep. */
	while (atomic_exchange_explicit(&lock->word, 2, memory_order_acquire) != 0)
		sys_futex_wait(&lock->word, 2, NULL);
}
