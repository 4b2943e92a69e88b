/* SPDX-License-Identifier: MIT */
#include "seal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "volume.h"

#define KEY_BYTES	4096

struct nonce {
	uint8_t bytes[SEAL_NONCE];
};

static gnutls_aead_cipher_hd_t cipher_of(struct seal_thread *thread)
{
	return (gnutls_aead_cipher_hd_t)thread;
}

static struct nonce nonce_of(uint64_t write)
{
	struct nonce nonce = { { 0 } };

	memcpy(nonce.bytes, &write, sizeof(write));
	return nonce;
}

int seal_init(struct seal *seal, uint64_t nr_pages, size_t page)
{
	seal->page = page;
	seal->key = map_zeroed(KEY_BYTES);
	seal->entry = map_zeroed(nr_pages * sizeof(*seal->entry));
	if (!seal->key || !seal->entry)
		return -ENOMEM;
	/* Best effort: an unprivileged process may be allowed to lock nothing. */
	(void)mlock(seal->key, KEY_BYTES);
	(void)madvise(seal->key, KEY_BYTES, MADV_DONTDUMP);
	return getrandom(seal->key, SEAL_KEY, 0) == SEAL_KEY ? 0 : -EIO;
}

int seal_thread_init(const struct seal *seal, struct seal_thread **out)
{
	gnutls_datum_t key = { .data = seal->key, .size = SEAL_KEY };
	gnutls_aead_cipher_hd_t cipher;

	if (!seal->entry) {
		*out = NULL;
		return 0;
	}
	if (gnutls_aead_cipher_init(&cipher, GNUTLS_CIPHER_AES_256_GCM, &key) < 0)
		return -EIO;
	*out = (struct seal_thread *)cipher;
	return 0;
}

int seal_close(struct seal *seal, struct seal_thread *thread, uint64_t index, void *bytes)
{
	uint64_t write = atomic_fetch_add_explicit(&seal->writes, 1, memory_order_relaxed) + 1;
	giovec_t auth = { &index, sizeof(index) }, text = { bytes, seal->page };
	struct nonce nonce = nonce_of(write);
	struct seal_entry *entry = &seal->entry[index];
	size_t tag_bytes = SEAL_TAG;

	entry->write = write;
	return gnutls_aead_cipher_encryptv2(cipher_of(thread), nonce.bytes, SEAL_NONCE, &auth, 1,
					    &text, 1, entry->tag, &tag_bytes) < 0 ? -EIO : 0;
}

bool seal_open(const struct seal *seal, struct seal_thread *thread, uint64_t index, void *bytes)
{
	giovec_t auth = { &index, sizeof(index) }, text = { bytes, seal->page };
	const struct seal_entry *entry = &seal->entry[index];
	struct nonce nonce = nonce_of(entry->write);
	uint8_t tag[SEAL_TAG];

	memcpy(tag, entry->tag, sizeof(tag));
	return gnutls_aead_cipher_decryptv2(cipher_of(thread), nonce.bytes, SEAL_NONCE, &auth, 1,
					    &text, 1, tag, SEAL_TAG) >= 0;
}
