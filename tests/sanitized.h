/* SPDX-License-Identifier: MIT */
/* Is this program built with a sanitizer that maps memory by itself, whenever it likes? */
#ifndef UHMM_TEST_SANITIZED_H
#define UHMM_TEST_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#endif
