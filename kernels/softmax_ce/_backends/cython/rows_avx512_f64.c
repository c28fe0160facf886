#if defined(__x86_64__)
#define ROWS_NAME sce_rows_avx512_f64
#define EXP_NAME sce_exp_avx512_f64
#define PART_NAME sce_part_avx512_f64
#define KL_NAME sce_kl_avx512
#define REAL_F64
#define SCE_TARGET "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma"
#include "target_begin.h"
#include "vec_avx512.h"
#include "rows_kernel.h"
#include "target_end.h"
#else
typedef int sce_no_avx512; /* an empty translation unit is not C */
#endif
