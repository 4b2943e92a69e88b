/* SPDX-License-Identifier: MIT */
/*
 * A thread of the library's own: its stack is in the arena, and it takes no signal,
 * so that no handler of the program's ever runs on it.
 */
#ifndef UHMM_CORE_THREAD_H
#define UHMM_CORE_THREAD_H

struct thread;

/*
 * Returns once @fn is all that is left to run there. No lock held: until then the thread
 * may map memory, which in a strict mm waits for a listener. -ENOMEM, -EAGAIN.
 */
int thread_start(void *(*fn)(void *), void *arg, struct thread **out);

/* Wait for its end, free it. NULL is fine. */
void thread_join(struct thread *thread);

#endif
