#if defined(__x86_64__)
#define ROWS_NAME sce_rows_avx2_f64
#define EXP_NAME sce_exp_avx2_f64
#define PART_NAME sce_part_avx2_f64
#define KL_NAME sce_kl_avx2
#define REAL_F64
#define SCE_TARGET "avx2,fma,f16c"
#include "target_begin.h"
#include "vec_avx2.h"
#include "rows_kernel.h"
#include "target_end.h"
#else
typedef int sce_no_avx2; /* an empty translation unit is not C */
#endif
