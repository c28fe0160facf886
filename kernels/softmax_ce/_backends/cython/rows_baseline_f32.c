#define ROWS_NAME sce_rows_baseline_f32
#define REAL_F32
#include "vec_baseline.h"
#include "rows_kernel.h"
