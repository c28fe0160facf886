#define ROWS_NAME model_rows_f32
#define EXP_NAME model_exp_f32
#define PART_NAME model_part_f32
#define CASTS_NAME model_casts
#define REAL_F32
#include "vec_model.h"
#include "rows_kernel.h"
