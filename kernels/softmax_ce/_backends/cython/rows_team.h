/* Work sharing: threads take pieces of one call, without a lock and without Python.
 *
 * A piece is a range of rows; or, where there are few long rows, a range of one row's chunks in one of its steps (sums,
 * scalars, gradient). Pieces are taken in order and shrink towards the end, so that a late thread finds work and the
 * threads end together. A step waits for the previous one by spinning: the threads with its pieces are running. */
#ifndef SOFTMAX_CE_ROWS_TEAM_H
#define SOFTMAX_CE_ROWS_TEAM_H

#include "rows.h"

typedef struct sce_team sce_team;

/* Return the team for a call on n_rows rows and up to `threads` threads. What the call points to must exist until the
 * team is freed. NULL if there is no memory. */
sce_team *sce_team_new(const sce_call *call, const sce_isa *isa, int is_double, ptrdiff_t n_rows, ptrdiff_t threads,
                       ptrdiff_t longest);
void sce_team_free(sce_team *team);

/* Return how many threads beside the caller's find work. */
ptrdiff_t sce_team_helpers(const sce_team *team);

/* Take pieces until none remains, and return 0; or until `longest` elements are done, and return 1: the thread should
 * then check its signals and call again. Return -1 if there was no memory; no thread gets another piece then. The
 * caller spins briefly where helpers are about to end, since sleeping and waking would take longer. */
int sce_team_work(sce_team *team, int helping);

/* Calls `task` on ranges that cover [begin, end), on several threads if it can, and returns when all have ended. A result
 * other than 0 is a failure. This is PyTorch's torch_parallel_for. */
typedef int32_t (*sce_parallel_for)(int64_t begin, int64_t end, int64_t grain_size,
                                    void (*task)(int64_t begin, int64_t end, void *context), void *context);

/* Work on several threads of another library, or on this one if `parallel_for` is NULL. Return as sce_team_work. */
int sce_team_share(sce_team *team, sce_parallel_for parallel_for);

/* Hand out no more pieces. */
void sce_team_cancel(sce_team *team);

/* Whether no helper is working, and none has failed. This is final after sce_team_cancel, or a return of 0 to the
 * caller. */
int sce_team_settled(const sce_team *team);

/* Tell the helpers that the caller has the interpreter's lock again. They wait briefly for this before they take it. */
void sce_team_caller_is_back(sce_team *team);

#endif
