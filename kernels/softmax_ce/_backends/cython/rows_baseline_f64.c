#define ROWS_NAME sce_rows_baseline_f64
#define EXP_NAME sce_exp_baseline_f64
#define PART_NAME sce_part_baseline_f64
#define KL_NAME sce_kl_baseline
#define REAL_F64
#include "vec_baseline.h"
#include "rows_kernel.h"
