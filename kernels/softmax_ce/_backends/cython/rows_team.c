#include "rows_team.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Elements in a piece: at least about 4 us of work, since taking one costs a cache miss or two; at most about 60 us, so
 * that no thread waits long for the last one. */
#define PIECE_MIN (1 << 14)
#define PIECE_MAX (1 << 18)

/* The cost of a row beside its classes, in elements. */
#define ROW_OVERHEAD 24

/* With fewer rows a thread than this, rows are shared chunk by chunk: whole rows would divide unevenly. */
#define ROWS_A_THREAD 4

/* Spins of about 20 to 40 ns each: of a caller waiting for its helpers to end, of a step waiting for the previous one
 * (it then yields), of a helper waiting until its caller has the interpreter's lock. */
#define CALLER_SPINS 1500
#define STEP_SPINS 200
#define HELPER_SPINS 200

struct sce_team {
    sce_call call;
    sce_rows rows;
    sce_row_part part;
    ptrdiff_t threads, longest, itemsize;
    ptrdiff_t chunks;      /* of a row, where rows are shared; 0: whole rows are handed out */
    ptrdiff_t steps;       /* units of a shared row: its chunks' sums, its scalars, its chunks' gradients */
    ptrdiff_t elements;    /* in a unit */
    ptrdiff_t least, most; /* units in a piece */
    ptrdiff_t pieces;      /* at most, of one step */
    ptrdiff_t end;         /* units of the call: rows, or the steps of all rows */
    sce_sums sums;         /* of the current shared row */
    char *exps;            /* exponentials of two shared rows; NULL: not kept */
    _Atomic ptrdiff_t next, done; /* units */
    atomic_int helpers, failed, caller_waits, caller_is_back;
};

typedef struct {
    ptrdiff_t first, last; /* units */
    ptrdiff_t row, chunk;
    enum sce_part part;
    ptrdiff_t after; /* this piece may begin when so many units are done */
} piece;

static void spin(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* `yield` is a no-op on most CPUs */
#endif
}

sce_team *sce_team_new(const sce_call *call, const sce_isa *isa, int is_double, ptrdiff_t n_rows, ptrdiff_t threads,
                       ptrdiff_t longest) {
    const ptrdiff_t classes = call->classes, chunks = (classes + SCE_CHUNK - 1) / SCE_CHUNK;
    const int few = threads > 1 && n_rows < ROWS_A_THREAD * threads;
    const int shared = chunks > 2 && !call->strided && (few || classes > longest);
    sce_team *team = calloc(1, sizeof *team);
    if (team == NULL)
        return NULL;
    team->call = *call;
    team->rows = is_double ? isa->f64 : isa->f32;
    team->part = is_double ? isa->part_f64 : isa->part_f32;
    team->threads = threads;
    team->longest = longest;
    team->itemsize = is_double ? sizeof(double) : sizeof(float);
    if (shared) {
        team->chunks = chunks;
        team->steps = chunks + 1 + (call->grad ? chunks : 0);
        team->call.sums = &team->sums;
        team->call.stream = call->stream >= SCE_STREAM_SHARED;
        team->call.chunks = malloc(2 * (size_t)chunks * sizeof *team->call.chunks);
        if (team->call.chunks == NULL) {
            free(team);
            return NULL;
        }
        /* If there is no memory to keep them, they are computed again, with the same bits. */
        if (call->grad && !call->log_output && classes * team->itemsize <= call->keep) {
            team->exps = malloc((size_t)(2 * SCE_KEPT_ROW_BYTES(classes, team->itemsize) + SCE_LINE));
            team->call.exps = team->exps ? team->exps + (-(uintptr_t)team->exps & (SCE_LINE - 1)) : NULL;
        }
    }
    const ptrdiff_t units = shared ? chunks : n_rows, even = (units + threads - 1) / threads;
    team->elements = shared ? SCE_CHUNK : classes + ROW_OVERHEAD;
    team->end = shared ? n_rows * team->steps : n_rows;
    team->least = PIECE_MIN / team->elements;
    if (team->least > even)
        team->least = even; /* small work is shared by as many threads as were asked for */
    if (team->least < 1)
        team->least = 1;
    team->most = (PIECE_MAX < longest ? PIECE_MAX : longest) / team->elements;
    if (team->most < team->least)
        team->most = team->least;
    team->pieces = (units + team->least - 1) / team->least;
    return team;
}

void sce_team_free(sce_team *team) {
    if (team != NULL && team->chunks) {
        free(team->call.chunks);
        free(team->exps);
    }
    free(team);
}

ptrdiff_t sce_team_helpers(const sce_team *team) {
    return (team->pieces < team->threads ? team->pieces : team->threads) - 1;
}

/* Set the row, step and chunk of the unit p->first. Return the end of that step. */
static ptrdiff_t locate(const sce_team *team, piece *p) {
    if (!team->chunks)
        return team->end;
    const ptrdiff_t begin = p->first - p->first % team->steps, at = p->first - begin, scalars = begin + team->chunks;
    p->row = begin / team->steps;
    if (at < team->chunks) {
        p->part = SCE_SUMS;
        p->chunk = at;
        p->after = p->row ? scalars - team->steps + 1 : 0; /* until then the previous row's sums are needed */
        return scalars;
    }
    p->part = at == team->chunks ? SCE_SCALARS : SCE_GRADIENT;
    p->chunk = p->part == SCE_GRADIENT ? at - team->chunks - 1 : 0;
    p->after = p->part == SCE_GRADIENT ? scalars + 1 : scalars;
    return p->part == SCE_GRADIENT ? begin + team->steps : scalars + 1;
}

static int take(sce_team *team, piece *p) {
    p->first = atomic_load(&team->next);
    do {
        if (p->first >= team->end)
            return 0;
        const ptrdiff_t left = locate(team, p) - p->first;
        ptrdiff_t units = left / (2 * team->threads);
        units = units < team->least ? team->least : units > team->most ? team->most : units;
        p->last = p->first + (units < left ? units : left);
    } while (!atomic_compare_exchange_weak(&team->next, &p->first, p->last));
    return 1;
}

/* Wait until so many units are done. Units of later steps are not done before those of earlier ones, so the count is
 * enough. This ends even when the team is cancelled: pieces are taken in order, and earlier ones are in progress. */
static void wait_for_units(const sce_team *team, ptrdiff_t units) {
    for (int k = 0; atomic_load(&team->done) < units; k += k < STEP_SPINS) {
        if (k < STEP_SPINS)
            spin();
        else
            sched_yield(); /* with more threads than CPUs, the other thread may need this one's */
    }
}

static void run_part(const sce_team *team, const piece *p) {
    const ptrdiff_t count = p->last - p->first;
    /* The gradient starts at the row's end, which was summed last and is likely to be cached. */
    const ptrdiff_t first = p->part == SCE_GRADIENT ? team->chunks - p->chunk - count : p->chunk;
    team->part(&team->call, p->row, p->part, first, first + count);
}

static int work_on(sce_team *team, sce_call *own) {
    ptrdiff_t elements = 0;
    piece p;
    while (elements < team->longest) {
        if (!take(team, &p))
            return 0;
        if (!team->chunks) {
            if (sce_run(team->rows, own, p.first, p.last, team->itemsize)) {
                atomic_store(&team->failed, 1);
                sce_team_cancel(team);
                return -1;
            }
        } else {
            wait_for_units(team, p.after);
            run_part(team, &p);
        }
        /* This also orders streaming stores before whatever follows. */
        atomic_fetch_add(&team->done, p.last - p.first);
        elements += (p.last - p.first) * team->elements;
    }
    return 1;
}

static int work(sce_team *team) {
    sce_call own = team->call; /* each thread has scratch of its own, for all its pieces */
    own.tiles = own.strided ? sce_new_tiles(&own) : NULL;
    const int more = work_on(team, &own);
    free(own.tiles);
    return more;
}

int sce_team_work(sce_team *team, int helping) {
    if (helping)
        atomic_fetch_add(&team->helpers, 1); /* before it takes a piece: see sce_team_settled */
    const int more = work(team);
    if (helping) {
        atomic_fetch_sub(&team->helpers, 1);
        for (int k = 0; k < HELPER_SPINS; k++) {
            if (!atomic_load(&team->caller_waits) || atomic_load(&team->caller_is_back))
                break;
            spin();
        }
    } else if (more == 0) {
        atomic_store(&team->caller_waits, 1);
        for (int k = 0; k < CALLER_SPINS && atomic_load(&team->helpers); k++)
            spin();
    }
    return more;
}

static void work_in_range(int64_t begin, int64_t end, void *team) {
    if (begin < end)
        sce_team_work(team, 1);
}

int sce_team_share(sce_team *team, sce_parallel_for parallel_for) {
    const ptrdiff_t helpers = sce_team_helpers(team);
    if (parallel_for == NULL || helpers < 1 || parallel_for(0, helpers + 1, 1, work_in_range, team) != 0)
        sce_team_work(team, 1);
    return atomic_load(&team->failed) ? -1 : atomic_load(&team->next) < team->end;
}

void sce_team_cancel(sce_team *team) {
    atomic_store(&team->next, team->end);
}

int sce_team_settled(const sce_team *team) {
    return atomic_load(&team->helpers) == 0 && !atomic_load(&team->failed);
}

void sce_team_caller_is_back(sce_team *team) {
    atomic_store(&team->caller_is_back, 1);
}
