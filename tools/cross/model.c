#include "model.h"

#ifdef SCE_WITHOUT_MODEL

const sce_isa *select_isa(const char *name) { return sce_select(name); }

ptrdiff_t supported_isas(const char **names, ptrdiff_t room) { return sce_supported(names, room); }

#else

#include <string.h>

void model_rows_f32(const sce_call *, ptrdiff_t, ptrdiff_t);
void model_rows_f64(const sce_call *, ptrdiff_t, ptrdiff_t);
void model_part_f32(const sce_call *, ptrdiff_t, enum sce_part, ptrdiff_t, ptrdiff_t);
void model_part_f64(const sce_call *, ptrdiff_t, enum sce_part, ptrdiff_t, ptrdiff_t);
void model_exp_f32(const void *, void *, ptrdiff_t);
void model_exp_f64(const void *, void *, ptrdiff_t);
extern const sce_casts model_casts;

static const sce_isa model = {
    "model",        model_rows_f32, model_rows_f64, model_part_f32,
    model_part_f64, model_exp_f32,  model_exp_f64,  &model_casts,
};

const sce_isa *select_isa(const char *name) { return strcmp(name, model.name) == 0 ? &model : sce_select(name); }

ptrdiff_t supported_isas(const char **names, ptrdiff_t room) {
    const ptrdiff_t count = sce_supported(names, room - 1);
    names[count] = model.name;
    return count + 1;
}

#endif
