/* One call's pieces, handed out to the threads that come for them, without a lock and without Python.
 *
 * A piece is a range of rows; or, where there are few long rows, a range of one row's chunks in one of its steps (sums,
 * scalars, gradient). Pieces are taken in order and begin large, so that a thread that comes late finds work and the
 * threads end together. A step waits for the one before by spinning: whoever holds a piece of that is running. */
#ifndef SOFTMAX_CE_ROWS_TEAM_H
#define SOFTMAX_CE_ROWS_TEAM_H

#include "rows.h"

typedef struct sce_team sce_team;

/* The team for a filled call on n_rows rows, worked on by up to so many threads. What the call points to must stay until
 * the team is freed. NULL where there is no memory. */
sce_team *sce_team_new(const sce_call *call, const sce_isa *isa, int is_double, ptrdiff_t n_rows, ptrdiff_t threads,
                       ptrdiff_t longest);
void sce_team_free(sce_team *team);

/* How many threads beside the caller's find work. */
ptrdiff_t sce_team_helpers(const sce_team *team);

/* Take pieces until none is left (then 0), or `longest` elements are done (then 1): the thread should see to its
 * signals and come again. -1 where there was no memory; then nobody gets another piece. The caller stays a little, where
 * helpers are about to end, since going to sleep and being woken would take longer. */
int sce_team_work(sce_team *team, int helping);

/* No piece is given from now on. */
void sce_team_cancel(sce_team *team);

/* Whether no helper is at work, and none has failed. After sce_team_cancel, or a return of 0 to the caller, it stays so. */
int sce_team_settled(const sce_team *team);

/* The caller has got what it has to compete with its helpers for. They wait a little for this. */
void sce_team_caller_is_back(sce_team *team);

#endif
