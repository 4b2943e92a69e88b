/* SPDX-License-Identifier: MIT */
/* y = A x for a sparse matrix of rows that were malloc'ed one by one. */
#include <uhmm/device.clh>

/* struct row { uint32_t nr; uint32_t column[nr]; float value[nr]; } */
__kernel void spmv(HMM_ARGS, ulong rows, ulong x, ulong y)
{
	HMM_BEGIN(hmm);
	HMM_VIEW(vr);
	HMM_VIEW(vx);
	ulong row = hmm_load_ulong(hmm, rows + 8UL * hmm_item(hmm));
	uint nr = hmm_view_load_uint(hmm, vr, row);
	float sum = 0;

	for (uint i = 0; i < nr; i++)
		sum += hmm_view_load_float(hmm, vr, row + 4 + 4UL * (nr + i)) *
		       hmm_view_load_float(hmm, vx, x + 4UL *
				hmm_view_load_uint(hmm, vr, row + 4 + 4UL * i));
	hmm_store_float(hmm, y + 4UL * hmm_item(hmm), sum);
	HMM_END(hmm);
}
