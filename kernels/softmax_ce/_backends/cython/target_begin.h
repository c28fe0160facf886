/* Compile what follows for SCE_TARGET, whatever the command line says. Standard headers are included before that. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <immintrin.h>

#include "rows.h"

#define SCE_PRAGMA(text) _Pragma(#text)
#define SCE_STRING(text) SCE_PRAGMA(text)
#if defined(__clang__)
SCE_STRING(clang attribute push(__attribute__((target(SCE_TARGET))), apply_to = function))
#else
#pragma GCC push_options
SCE_STRING(GCC target(SCE_TARGET))
#endif
