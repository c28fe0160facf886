#define ROWS_NAME model_rows_f64
#define EXP_NAME model_exp_f64
#define PART_NAME model_part_f64
#define REAL_F64
#include "vec_model.h"
#include "rows_kernel.h"
