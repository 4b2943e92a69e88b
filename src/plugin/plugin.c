/* SPDX-License-Identifier: MIT */
/*
 * The host's half of plugin.h. Sees the public headers alone: it could as well be a
 * part of each host. Runs where a program sets things up, never on the fault path.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <uhmm/soft.h>

#include "options.h"

#define NAME_MAX_BYTES	32
#define SUFFIX		".so"

/* In the order that they are searched in: $UHMM_PLUGIN_PATH, then the library's own. */
struct folders {
	const char *next;
	bool library;		/* still to come */
	char path[PATH_MAX];
};

static void folders_begin(struct folders *f)
{
	f->next = secure_getenv("UHMM_PLUGIN_PATH");
	f->library = true;
}

/* The next folder in f->path; false: no more. Empty and overlong ones are passed over. */
static bool folders_next(struct folders *f)
{
	while (f->next) {
		const char *end = strchrnul(f->next, ':');
		size_t len = (size_t)(end - f->next);
		bool fits = len && len < sizeof(f->path);

		if (fits) {
			memcpy(f->path, f->next, len);
			f->path[len] = '\0';
		}
		f->next = *end ? end + 1 : NULL;
		if (fits)
			return true;
	}
	if (!f->library)
		return false;
	f->library = false;
	strcpy(f->path, UHMM_PLUGIN_DIR);
	return true;
}

static bool name_valid(const char *name, size_t len)
{
	if (!len || len >= NAME_MAX_BYTES)
		return false;
	for (size_t i = 0; i < len; i++) {
		char c = name[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      (c == '-' && i)))
			return false;
	}
	return true;
}

static int say(char *why, size_t bytes, int error, const char *name, const char *text)
{
	if (why && bytes)
		snprintf(why, bytes, "%s: %s", name, text);
	return error;
}

/* ---------------------------------------------------------------- loading */

static bool table_valid(const struct hmm_plugin *p)
{
	if (p->nr_options > HMM_PLUGIN_OPTIONS || (p->nr_options && !p->options))
		return false;
	for (uint32_t i = 0; i < p->nr_options; i++) {
		const struct hmm_plugin_option *o = &p->options[i];

		if (!o->name || !*o->name || (unsigned int)o->kind > HMM_PLUGIN_WORD ||
		    (o->kind == HMM_PLUGIN_WORD && !o->words))
			return false;
	}
	return true;
}

static int plugin_check(const struct hmm_plugin *p, const char *path, char *why, size_t bytes)
{
	if (p->size < offsetof(struct hmm_plugin, describe))
		return say(why, bytes, -ENOEXEC, path, "hmm_plugin does not begin with its size");
	if (p->abi > HMM_PLUGIN_ABI || p->size > sizeof(*p))
		return say(why, bytes, -E2BIG, path, "made for a newer libuhmm");
	if (p->abi != HMM_PLUGIN_ABI || p->size != sizeof(*p))
		return say(why, bytes, -ENOEXEC, path, "made for an older libuhmm");
	if (!p->name || !name_valid(p->name, strlen(p->name)) || !p->what || !p->open || !p->close)
		return say(why, bytes, -ENOEXEC, path, "hmm_plugin lacks name, what, open, close");
	if (!table_valid(p))
		return say(why, bytes, -ENOEXEC, path, "its table of options cannot be");
	return 0;
}

static int load_path(const char *path, const struct hmm_plugin **out, char *why, size_t bytes)
{
	const struct hmm_plugin *plugin;
	void *object;
	int ret;

	if (access(path, F_OK))
		return say(why, bytes, -ENOENT, path, "no such file");
	/* NOW: a callback on the fault path may not bind its first call. */
	object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!object)
		return say(why, bytes, -ENOEXEC, path, dlerror());
	plugin = dlsym(object, "hmm_plugin");
	if (plugin)
		ret = plugin_check(plugin, path, why, bytes);
	else
		ret = say(why, bytes, -ENOEXEC, path, "exports no hmm_plugin");
	if (ret) {
		dlclose(object);
		return ret;
	}
	*out = plugin;
	return 0;
}

static int load_name(const char *name, const struct hmm_plugin **out, char *why, size_t bytes)
{
	struct folders f;
	char path[PATH_MAX + NAME_MAX_BYTES + sizeof(SUFFIX)];

	folders_begin(&f);
	while (folders_next(&f)) {
		snprintf(path, sizeof(path), "%s/%s" SUFFIX, f.path, name);
		if (!access(path, F_OK))
			return load_path(path, out, why, bytes);
	}
	return say(why, bytes, -ENOENT, name, "no such device");
}

int hmm_plugin_load(const char *name, const struct hmm_plugin **out, char *why, size_t why_bytes)
{
	if (!name || !out)
		return -EINVAL;
	if (strchr(name, '/'))
		return load_path(name, out, why, why_bytes);
	if (!name_valid(name, strlen(name)))
		return say(why, why_bytes, -EINVAL, name, "not the name of a device");
	if (strcmp(name, hmm_soft_plugin()->name))
		return load_name(name, out, why, why_bytes);
	*out = hmm_soft_plugin();
	return 0;
}

/* ---------------------------------------------------------------- listing */

struct names {
	char (*name)[NAME_MAX_BYTES];
	size_t nr;
};

static int names_add(struct names *names, const char *name, size_t len)
{
	void *more;

	for (size_t i = 0; i < names->nr; i++)
		if (!strncmp(names->name[i], name, len) && !names->name[i][len])
			return 0;
	more = realloc(names->name, (names->nr + 1) * sizeof(*names->name));
	if (!more)
		return -ENOMEM;
	names->name = more;
	memcpy(names->name[names->nr], name, len);
	names->name[names->nr++][len] = '\0';
	return 0;
}

static int names_of_folder(struct names *names, const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	int ret = 0;

	if (!dir)
		return 0;
	while (!ret && (entry = readdir(dir))) {
		size_t len = strlen(entry->d_name);
		size_t stem = len > strlen(SUFFIX) ? len - strlen(SUFFIX) : 0;

		if (stem && !strcmp(entry->d_name + stem, SUFFIX) &&
		    name_valid(entry->d_name, stem))
			ret = names_add(names, entry->d_name, stem);
	}
	closedir(dir);
	return ret;
}

int hmm_plugin_each(int (*fn)(const char *name, void *ctx), void *ctx)
{
	const char *soft = hmm_soft_plugin()->name;
	struct names names = { NULL, 0 };
	struct folders f;
	int ret;

	if (!fn)
		return -EINVAL;
	ret = names_add(&names, soft, strlen(soft));
	folders_begin(&f);
	while (!ret && folders_next(&f))
		ret = names_of_folder(&names, f.path);
	for (size_t i = 0; !ret && i < names.nr; i++)
		ret = fn(names.name[i], ctx);
	free(names.name);
	return ret;
}

/* ---------------------------------------------------------------- devices */

/* @text, of OPTIONS_BYTES, is where the values point. */
static int take_options(const struct hmm_plugin *plugin, const char *options, char *text,
			struct hmm_plugin_value *values, char *why, size_t why_bytes)
{
	if (options && strlen(options) >= OPTIONS_BYTES)
		return say(why, why_bytes, -EINVAL, plugin->name, "the options are too long");
	strcpy(text, options ? options : "");
	return options_parse(plugin, text, values, why, why_bytes);
}

int hmm_device_check(const struct hmm_plugin *plugin, const char *options, char *why,
		     size_t why_bytes)
{
	struct hmm_plugin_value values[HMM_PLUGIN_OPTIONS];
	char text[OPTIONS_BYTES];

	if (!plugin)
		return -EINVAL;
	return take_options(plugin, options, text, values, why, why ? why_bytes : 0);
}

int hmm_device_open(struct hmm_mm *mm, const struct hmm_plugin *plugin, const char *options,
		    struct hmm_device *device)
{
	struct hmm_plugin_value values[HMM_PLUGIN_OPTIONS];
	char text[OPTIONS_BYTES];
	int ret;

	if (!mm || !plugin || !device)
		return -EINVAL;
	*device = (struct hmm_device){ .plugin = plugin, .mm = mm };
	ret = take_options(plugin, options, text, values, device->said, sizeof(device->said));
	if (!ret)
		ret = plugin->open(device, values);
	if (ret)
		device->plugin = NULL;
	return ret;
}

int hmm_device_close(struct hmm_device *device)
{
	int ret;

	if (!device)
		return -EINVAL;
	if (!device->plugin)
		return 0;
	ret = device->plugin->close(device);
	if (ret != -EAGAIN && ret != -ECHILD && ret != -EDEADLK)
		device->plugin = NULL;
	return ret;
}
