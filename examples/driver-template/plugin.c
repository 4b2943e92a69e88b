/* SPDX-License-Identifier: MIT */
/*
 * Options, open, close: what a host sees.
 */
#include "template.h"

#include <errno.h>
#include <stdio.h>

enum { MEM, FOLDER, MIGRATE };

static const struct hmm_plugin_option options[] = {
	[MEM] = { "mem", HMM_PLUGIN_SIZE, 64 << 20, 64 << 10, 1ULL << 40, NULL,
		  "device memory" },
	[FOLDER] = { "folder", HMM_PLUGIN_TEXT, 0, 0, 0, NULL,
		     "where the file lies that is the memory (/tmp)" },
	[MIGRATE] = { "migrate", HMM_PLUGIN_WORD, 0, 0, 0, "touch|never",
		      "when a page that the device touches moves in" },
};

/* Meet the core: from here on callbacks come. */
static int attach(struct template_device *dev)
{
	HMM_OPTS(hmm_devmem_opts, opts, .flags = HMM_DEVMEM_FAULT_SAFE,
		 .nr_pages = dev->nr_pages, .owner = dev, .ops = &memory_ops, .ctx = dev);
	int ret, err;

	ret = mirror_open(dev);
	if (ret)
		return ret;
	ret = hmm_devmem_add(dev->mm, &opts, &dev->devmem);
	if (ret) {
		err = mirror_close(dev);
		(void)err;	/* it fails from callbacks and in forked children alone */
	}
	return ret;
}

static int template_open(struct hmm_device *device, const struct hmm_plugin_value *values)
{
	const char *folder = values[FOLDER].text ? values[FOLDER].text : "/tmp";
	struct template_device *dev = hmm_safe_alloc(sizeof(*dev));
	int ret;

	if (!dev)
		return -ENOMEM;
	dev->mm = device->mm;
	dev->page_size = hmm_page_size();
	dev->migrates = values[MIGRATE].number == 0;
	ret = memory_open(dev, folder, values[MEM].number);
	if (ret == -EIO)
		snprintf(device->said, sizeof(device->said), "template: no file in %s: %m", folder);
	if (ret)
		goto err_free;
	ret = attach(dev);
	if (ret)
		goto err_memory;
	device->devmem = dev->devmem;
	device->ctx = dev;
	return 0;

err_memory:
	memory_close(dev);
err_free:
	hmm_safe_free(dev, sizeof(*dev));
	return ret;
}

/* The memory first: the pages on their way home still have to be invalidated. */
static int template_close(struct hmm_device *device)
{
	struct template_device *dev = device->ctx;
	int ret = hmm_devmem_remove(dev->devmem);

	if (ret && ret != -EIO)
		return ret;
	if (mirror_close(dev))
		return -EDEADLK;
	memory_close(dev);
	hmm_safe_free(dev, sizeof(*dev));
	return ret;
}

static int64_t template_migrate(struct hmm_device *device, uintptr_t start, uintptr_t end)
{
	struct template_device *dev = device->ctx;

	return hmm_migrate_to_device(dev->mm, dev->devmem, start, end,
				     HMM_MIGRATE_SYSTEM | HMM_MIGRATE_DEVICE, NULL);
}

static int template_read(struct hmm_device *device, uintptr_t addr, void *buf, size_t len)
{
	return mirror_read(device->ctx, addr, buf, len);
}

static int template_write(struct hmm_device *device, uintptr_t addr, const void *buf, size_t len)
{
	return mirror_write(device->ctx, addr, buf, len);
}

const struct hmm_plugin hmm_plugin = {
	.size = sizeof(hmm_plugin),
	.abi = HMM_PLUGIN_ABI,
	.nr_options = sizeof(options) / sizeof(options[0]),
	.options = options,
	.name = "template",
	.what = "a driver to copy: device memory in a file",
	.open = template_open,
	.close = template_close,
	.migrate = template_migrate,
	.read = template_read,
	.write = template_write,
};
