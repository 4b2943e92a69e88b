/* SPDX-License-Identifier: MIT */
/*
 * opencl_spmv - a sparse matrix of malloc'ed rows, times a vector, many times over.
 *
 * The device gets the program's pointers; the first product fetches the matrix, the others
 * run at the speed of the device's own memory. Each is compared with the CPU's.
 */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <uhmm/opencl.h>

#define ROWS		100000u
#define PER_ROW		64u
#define PRODUCTS	8

extern const char source_spmv_cl[];

/* nr columns, then nr floats. */
struct row {
	uint32_t nr, column[];
};

static struct row *rows[ROWS];
static float x[ROWS];

static double now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static float *values(struct row *row)
{
	return (float *)&row->column[row->nr];
}

static int make_matrix(void)
{
	uint64_t seed = 88172645463325252ULL;

	for (uint32_t r = 0; r < ROWS; r++) {
		rows[r] = malloc(sizeof(*rows[r]) + PER_ROW * (sizeof(uint32_t) + sizeof(float)));
		if (!rows[r])
			return -ENOMEM;
		rows[r]->nr = PER_ROW;
		x[r] = 1.0f / (float)(r + 1);
		for (uint32_t i = 0; i < PER_ROW; i++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			rows[r]->column[i] = (uint32_t)(seed % ROWS);
			values(rows[r])[i] = (float)(seed >> 40) / (float)(1 << 24);
		}
	}
	return 0;
}

static void multiply(float *y)
{
	for (uint32_t r = 0; r < ROWS; r++) {
		float sum = 0;

		for (uint32_t i = 0; i < rows[r]->nr; i++)
			sum += values(rows[r])[i] * x[rows[r]->column[i]];
		y[r] = sum;
	}
}

/* Sums in another order, or with fused multiplications, differ in the last digits. */
static int compare(const float *y, const float *cpu)
{
	for (uint32_t r = 0; r < ROWS; r++)
		if (fabsf(y[r] - cpu[r]) > 1e-4f * (1.0f + fabsf(cpu[r])))
			return -EILSEQ;
	return 0;
}

static int products(struct hmm_opencl_kernel *kernel, float *y, const float *cpu)
{
	int ret = 0;

	for (int i = 0; i < PRODUCTS && !ret; i++) {
		double begun = now_ms();

		ret = hmm_opencl_run(kernel, ROWS, NULL);
		printf("product %d: %.1f ms\n", i + 1, now_ms() - begun);
	}
	return ret ? ret : compare(y, cpu);
}

int main(void)
{
	static char why[256];
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 256UL << 20, .why = why,
		 .why_bytes = sizeof(why));
	float *y = malloc(ROWS * sizeof(*y)), *cpu = malloc(ROWS * sizeof(*cpu));
	struct hmm_opencl_program *program;
	struct hmm_opencl_kernel *kernel;
	struct hmm_opencl *ocl = NULL;
	struct hmm_mm *mm = NULL;
	double begun;
	int ret;

	ret = y && cpu ? make_matrix() : -ENOMEM;
	if (ret)
		return 1;
	begun = now_ms();
	multiply(cpu);
	printf("%u rows of %u: the CPU takes %.1f ms\n", ROWS, PER_ROW, now_ms() - begun);
	ret = hmm_mm_create(NULL, &mm);
	if (!ret)
		ret = hmm_opencl_open(mm, &opts, &ocl);
	if (!ret)
		ret = hmm_opencl_build(ocl, source_spmv_cl, NULL, 0, why, sizeof(why), &program);
	if (!ret)
		ret = hmm_opencl_kernel(program, "spmv", &kernel);
	if (!ret)
		ret = hmm_opencl_arg_pointer(kernel, 0, rows);
	if (!ret)
		ret = hmm_opencl_arg_pointer(kernel, 1, x);
	if (!ret)
		ret = hmm_opencl_arg_pointer(kernel, 2, y);
	if (!ret)
		ret = products(kernel, y, cpu);
	if (ret)
		fprintf(stderr, "opencl_spmv: %s %s\n", strerror(-ret), why);
	if (hmm_opencl_close(ocl) || hmm_mm_destroy(mm))
		return 1;
	return ret ? 1 : 0;
}
