/* SPDX-License-Identifier: MIT */
#include "port.h"

#include <errno.h>
#include <string.h>

#include "device.h"

static const char source[] =
"#include <uhmm/device.clh>\n"
"\n"
"__kernel void port_read(HMM_ARGS, ulong va, uint n)\n"
"{\n"
"	HMM_BEGIN(hmm);\n"
"	__global uchar *mail = (__global uchar *)(hmm_state + HMM_STATE_MAIL);\n"
"\n"
"	if (n == 2 && !(va & 1)) {\n"
"		*(__global ushort *)mail = hmm_load_ushort(hmm, va);\n"
"	} else if (n == 4 && !(va & 3)) {\n"
"		*(__global uint *)mail = hmm_load_uint(hmm, va);\n"
"	} else if (n == 8 && !(va & 7)) {\n"
"		*(__global ulong *)mail = hmm_load_ulong(hmm, va);\n"
"	} else {\n"
"		for (uint i = 0; i < n && !hmm_stopped(hmm); i++)\n"
"			mail[i] = hmm_load_uchar(hmm, va + i);\n"
"	}\n"
"	HMM_END(hmm);\n"
"}\n"
"\n"
"__kernel void port_write(HMM_ARGS, ulong va, uint n)\n"
"{\n"
"	HMM_BEGIN(hmm);\n"
"	__global uchar *mail = (__global uchar *)(hmm_state + HMM_STATE_MAIL);\n"
"\n"
"	if (n == 2 && !(va & 1)) {\n"
"		hmm_put_ushort(hmm, va, *(__global ushort *)mail);\n"
"	} else if (n == 4 && !(va & 3)) {\n"
"		hmm_put_uint(hmm, va, *(__global uint *)mail);\n"
"	} else if (n == 8 && !(va & 7)) {\n"
"		hmm_put_ulong(hmm, va, *(__global ulong *)mail);\n"
"	} else {\n"
"		for (uint i = 0; i < n && !hmm_stopped(hmm); i++)\n"
"			hmm_put_uchar(hmm, va + i, mail[i]);\n"
"	}\n"
"	HMM_END(hmm);\n"
"}\n"
"\n"
"#ifdef cl_khr_int64_base_atomics\n"
"__kernel void port_add(HMM_ARGS, ulong va, ulong value)\n"
"{\n"
"	HMM_BEGIN(hmm);\n"
"	hmm_atomic_add_ulong(hmm, va, value);\n"
"	HMM_END(hmm);\n"
"}\n"
"#endif\n";

void ocl_port_init(struct ocl_port *port)
{
	pthread_mutex_init(&port->lock, NULL);
}

void ocl_port_destroy(struct ocl_port *port)
{
	pthread_mutex_destroy(&port->lock);
}

/* Lock held. */
static int kernel_of(struct hmm_opencl *ocl, enum ocl_port_kernel which)
{
	static const char *const names[] = { "port_read", "port_write", "port_add" };
	struct ocl_port *port = &ocl->port;
	int ret;

	if (which == OCL_PORT_ADD && !ocl->has_atomic64)
		return -EOPNOTSUPP;
	if (!port->program) {
		ret = hmm_opencl_build(ocl, source, NULL, 0, NULL, 0, &port->program);
		if (ret)
			return ret == -EINVAL ? -EIO : ret;
	}
	return port->kernel[which] ? 0 :
	       hmm_opencl_kernel(port->program, names[which], &port->kernel[which]);
}

/* The mailbox, through a slot's staging. */
static int mail(struct hmm_opencl *ocl, void *out, const void *in, size_t bytes)
{
	struct ocl_channel *channel = &ocl->channel;
	unsigned int slot = ocl_channel_get(channel);
	struct ocl_request *request = ocl_request(channel, slot);
	int ret;

	request->a[0] = bytes;
	request->a[1] = !in;
	if (in)
		memcpy(ocl_channel_staging(channel, slot), in, bytes);
	ret = ocl_channel_ask(channel, slot, OCL_MAIL);
	if (!ret && out)
		memcpy(out, ocl_channel_staging(channel, slot), bytes);
	ocl_channel_put(channel, slot);
	return ret;
}

static int access_once(struct hmm_opencl *ocl, enum ocl_port_kernel which, uintptr_t addr,
		       const void *arg, size_t arg_bytes)
{
	struct hmm_opencl_kernel *kernel = ocl->port.kernel[which];
	uint64_t va = addr;
	struct hmm_opencl_fault fault;
	int ret;

	ret = hmm_opencl_arg(kernel, 0, &va, sizeof(va));
	if (!ret)
		ret = hmm_opencl_arg(kernel, 1, arg, arg_bytes);
	if (!ret)
		ret = hmm_opencl_run(kernel, 1, &fault);
	if (ret != -EFAULT)
		return ret;
	switch (fault.reason) {
	case HMM_OPENCL_READONLY:
		return -EPERM;
	case HMM_OPENCL_LOST:
		return -EIO;
	case HMM_OPENCL_NOMEM:
		return -ENOMEM;
	case HMM_OPENCL_ATOMIC:
		return -EOPNOTSUPP;
	case HMM_OPENCL_MISALIGNED:
		return -EINVAL;
	default:
		return -EFAULT;
	}
}

/* In pieces of the mailbox, which do not cross a page: so one is all or nothing. */
static int transfer(struct hmm_opencl *ocl, uintptr_t addr, void *out, const void *in, size_t len)
{
	enum ocl_port_kernel which = in ? OCL_PORT_WRITE : OCL_PORT_READ;
	int ret = ocl_check(ocl);

	if (ret)
		return ret;
	if ((!out && !in) || addr + len < addr)
		return -EINVAL;
	pthread_mutex_lock(&ocl->port.lock);
	ret = kernel_of(ocl, which);
	for (size_t done = 0; done < len && !ret;) {
		size_t n = HMM_STATE_MAIL_BYTES - ((addr + done) & (HMM_STATE_MAIL_BYTES - 1));
		uint32_t bytes;

		n = n < len - done ? n : len - done;
		bytes = (uint32_t)n;
		if (in)
			ret = mail(ocl, NULL, (const char *)in + done, n);
		if (!ret)
			ret = access_once(ocl, which, addr + done, &bytes, sizeof(bytes));
		if (!ret && out)
			ret = mail(ocl, (char *)out + done, NULL, n);
		done += n;
	}
	pthread_mutex_unlock(&ocl->port.lock);
	return ret;
}

int hmm_opencl_read(struct hmm_opencl *ocl, uintptr_t addr, void *buf, size_t len)
{
	return transfer(ocl, addr, buf, NULL, len);
}

int hmm_opencl_write(struct hmm_opencl *ocl, uintptr_t addr, const void *buf, size_t len)
{
	return transfer(ocl, addr, NULL, buf, len);
}

int hmm_opencl_add(struct hmm_opencl *ocl, uintptr_t addr, uint64_t value)
{
	int ret = ocl_check(ocl);

	if (ret)
		return ret;
	pthread_mutex_lock(&ocl->port.lock);
	ret = kernel_of(ocl, OCL_PORT_ADD);
	if (!ret)
		ret = access_once(ocl, OCL_PORT_ADD, addr, &value, sizeof(value));
	pthread_mutex_unlock(&ocl->port.lock);
	return ret;
}
