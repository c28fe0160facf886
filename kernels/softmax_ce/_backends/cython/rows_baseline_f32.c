#define ROWS_NAME sce_rows_baseline_f32
#define EXP_NAME sce_exp_baseline_f32
#define PART_NAME sce_part_baseline_f32
#define CASTS_NAME sce_casts_baseline
#define REAL_F32
#include "vec_baseline.h"
#include "rows_kernel.h"
