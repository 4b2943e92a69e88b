/* SPDX-License-Identifier: MIT */
/* The plug-in: options, opening and closing. */
#include <uhmm/plugin.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "device.h"

enum {
	URI, URI_LAST = URI + LINK_SERVERS - 1,
	MIRROR, MEM, CONNECTIONS, TIMEOUT, ENCRYPT, TLS_CERTS, TLS_PSK, FAULT_AROUND, OPTIONS,
};

#define MORE_URI(n)	{ "uri" #n, HMM_PLUGIN_TEXT, 0, 0, 0, NULL, "another server" }

static const struct hmm_plugin_option options[OPTIONS] = {
	[URI] = { "uri", HMM_PLUGIN_TEXT, 0, 0, 0, NULL,
		  "a server and its export, nbd://host/export, nbds://, nbd+unix:///?socket=" },
	MORE_URI(2), MORE_URI(3), MORE_URI(4), MORE_URI(5), MORE_URI(6), MORE_URI(7), MORE_URI(8),
	[MIRROR] = { "mirror", HMM_PLUGIN_NUMBER, 1, 1, 2, NULL,
		     "copies of each page, on uri and uri2, uri3 and uri4 ..." },
	[MEM] = { "mem", HMM_PLUGIN_SIZE, 0, 0, 0, NULL,
		  "memory to use; 0: what the exports hold" },
	[CONNECTIONS] = { "connections", HMM_PLUGIN_NUMBER, 0, 0, LINK_CONNECTIONS, NULL,
			  "to each server; 0: 4, or 1 where the server wants no more" },
	[TIMEOUT] = { "timeout", HMM_PLUGIN_NUMBER, 30, 1, 86400, NULL,
		      "seconds a server may be away before pages that only it has are lost" },
	[ENCRYPT] = { "encrypt", HMM_PLUGIN_WORD, 0, 0, 0, "off|on",
		      "encrypt pages, with a key that never leaves this machine" },
	[TLS_CERTS] = { "tls_certs", HMM_PLUGIN_TEXT, 0, 0, 0, NULL,
			"folder with ca-cert.pem, client-cert.pem, client-key.pem, for nbds://" },
	[TLS_PSK] = { "tls_psk", HMM_PLUGIN_TEXT, 0, 0, 0, NULL,
		      "file of pre-shared keys, for nbds://user@host" },
	[FAULT_AROUND] = { "fault_around", HMM_PLUGIN_NUMBER, 0, 0, FAULT_PAGES, NULL,
			   "pages brought home by a CPU fault, a power of two; 0: adaptive" },
};

/* Lock order: the mm's, then pages.lock. */
static void page_free(struct hmm_devmem *devmem, uint64_t index, uint64_t nr)
{
	struct nbd_device *dev = hmm_devmem_ctx(devmem);
	bool trimmable;

	pthread_mutex_lock(&dev->pages.lock);
	nbd_pages_free(&dev->pages, index, nr);
	nbd_faults_forget(dev, index, nr);
	trimmable = dev->pages.nr_trimmable;
	pthread_mutex_unlock(&dev->pages.lock);
	if (trimmable)
		nbd_keeper_wake(dev);
}

static int64_t page_alloc(struct hmm_devmem *devmem, uint64_t nr, uint64_t *index)
{
	struct nbd_device *dev = hmm_devmem_ctx(devmem);
	uint64_t got;

	if (atomic_load(&dev->channel.dead))
		return -ENOSPC;
	got = nbd_pages_alloc(&dev->pages, nr, index);
	return got ? (int64_t)got : -ENOSPC;
}

static int attach(struct nbd_device *dev)
{
	HMM_OPTS(hmm_devmem_ops, ops,
		 .copy_to_device = nbd_copy_to_device, .copy_from_device = nbd_copy_from_device,
		 .page_free = page_free, .migrate_to_ram = nbd_migrate_to_ram,
		 .page_alloc = page_alloc);
	HMM_OPTS(hmm_devmem_opts, opts, .flags = HMM_DEVMEM_FAULT_SAFE,
		 .nr_pages = dev->pages.nr, .owner = dev, .ops = &ops, .ctx = dev);

	return hmm_devmem_add(dev->mm, &opts, &dev->devmem);
}

static int refuse(struct hmm_device *device, const char *why)
{
	snprintf(device->said, sizeof(device->said), "nbd: %s", why);
	return -EINVAL;
}

static bool text_take(char *to, const struct hmm_plugin_value *value)
{
	size_t len = value->given ? strlen(value->text) : 0;

	if (len >= LINK_TEXT)
		return false;
	if (len)
		memcpy(to, value->text, len + 1);
	return true;
}

static int config_uris(struct hmm_device *device, const struct hmm_plugin_value *values,
		       struct link_config *config)
{
	for (uint32_t i = 0; i < LINK_SERVERS; i++) {
		if (!values[URI + i].given)
			continue;
		if (i != config->nr_uris)
			return refuse(device, "uri, uri2, uri3 ... must be given without gaps");
		if (!text_take(config->uri[config->nr_uris++], &values[URI + i]))
			return refuse(device, "a URI is longer than 511 bytes");
		if ((values[TLS_CERTS].given || values[TLS_PSK].given) &&
		    strncmp(values[URI + i].text, "nbds", 4) != 0)
			return refuse(device, "tls_certs and tls_psk are for nbds:// and nbds+unix://");
	}
	if (!config->nr_uris)
		return refuse(device, "uri= is missing: nbd://host/export");
	if (config->nr_uris % config->mirror)
		return refuse(device, "mirror=2 needs an even number of URIs");
	return 0;
}

static int config_take(struct hmm_device *device, const struct hmm_plugin_value *values,
		       struct link_config *config)
{
	*config = (struct link_config){
		.page_bytes = (uint32_t)hmm_page_size(),
		.mirror = (uint32_t)values[MIRROR].number,
		.max_bytes = values[MEM].number,
		.connections = (uint32_t)values[CONNECTIONS].number,
		.timeout_ms = (uint32_t)values[TIMEOUT].number * 1000,
		.seal = values[ENCRYPT].number != 0,
	};
	if (config->max_bytes % config->page_bytes)
		return refuse(device, "mem= must be whole pages");
	if (values[FAULT_AROUND].number & (values[FAULT_AROUND].number - 1))
		return refuse(device, "fault_around= must be a power of two");
	if (!text_take(config->tls_certs, &values[TLS_CERTS]) ||
	    !text_take(config->tls_psk, &values[TLS_PSK]))
		return refuse(device, "a path is longer than 511 bytes");
	return config_uris(device, values, config);
}

/* All but the devmem. */
static int parts_start(struct nbd_device *dev, const struct link_config *config,
		       uint32_t around, char *said, size_t said_bytes)
{
	int ret = nbd_channel_open(&dev->channel, config, said, said_bytes);

	if (ret)
		return ret;
	ret = nbd_pages_init(&dev->pages, dev->channel.nr_pages);
	if (ret)
		goto err_channel;
	nbd_lanes_init(dev, config);
	ret = nbd_reader_start(dev);
	if (ret)
		goto err_lanes;
	ret = nbd_faults_start(dev, around);
	if (ret)
		goto err_reader;
	nbd_lanes_adopt(dev);
	ret = nbd_keeper_start(dev);
	if (!ret)
		return 0;

	nbd_faults_stop(dev);
err_reader:
	nbd_reader_stop(dev);
err_lanes:
	nbd_lanes_destroy(dev);
	nbd_pages_destroy(&dev->pages);
err_channel:
	nbd_channel_close(&dev->channel);
	return ret;
}

static void parts_stop(struct nbd_device *dev)
{
	nbd_keeper_stop(dev);
	nbd_reader_stop(dev);
	nbd_faults_stop(dev);
	nbd_lanes_destroy(dev);
	nbd_channel_close(&dev->channel);
	nbd_pages_destroy(&dev->pages);
}

static int plugin_open(struct hmm_device *device, const struct hmm_plugin_value *values)
{
	struct link_config config;
	struct nbd_device *dev;
	int ret = config_take(device, values, &config);

	_Static_assert(sizeof(*dev) <= 64 * 1024, "a forked child must read zeros here");
	if (ret)
		return ret;
	dev = hmm_safe_alloc(sizeof(*dev));
	if (!dev)
		return -ENOMEM;
	dev->mm = device->mm;
	ret = parts_start(dev, &config, (uint32_t)values[FAULT_AROUND].number, device->said,
			  sizeof(device->said));
	if (ret)
		goto err_free;
	ret = attach(dev);
	if (ret)
		goto err_stop;
	dev->magic = NBD_MAGIC;
	device->devmem = dev->devmem;
	device->ctx = dev;
	return 0;

err_stop:
	parts_stop(dev);
err_free:
	hmm_safe_free(dev, sizeof(*dev));
	return ret;
}

static int plugin_close(struct hmm_device *device)
{
	struct nbd_device *dev = device->ctx;
	int ret;

	if (dev->magic != NBD_MAGIC)
		return -ECHILD;
	ret = hmm_devmem_remove(dev->devmem);
	if (ret && ret != -EIO)
		return ret;
	dev->magic = 0;
	parts_stop(dev);
	hmm_safe_free(dev, sizeof(*dev));
	return ret;
}

static int plugin_describe(uint32_t nr, struct hmm_plugin_device *out)
{
	(void)nr;
	*out = (struct hmm_plugin_device){
		.what = "another machine's memory; name its server: nbd:uri=nbd://host/export",
	};
	return -ENOENT;
}

const struct hmm_plugin hmm_plugin = {
	.size = sizeof(hmm_plugin),
	.abi = HMM_PLUGIN_ABI,
	.nr_options = OPTIONS,
	.options = options,
	.name = "nbd",
	.what = "memory of other machines, on NBD servers",
	.open = plugin_open,
	.close = plugin_close,
	.describe = plugin_describe,
};
