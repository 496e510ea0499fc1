/* The C interface of Lane: ranks exchange vectors.
 *
 *     #include <lane.h>            cc program.c $(pkg-config --cflags --libs lane)
 *
 * One rank is one process. Every rank joins the job, all ranks call the same collectives in the same order with the
 * same counts and types, and every rank leaves:
 *
 *     lane_comm_t comm;
 *     if (lane_join(NULL, &comm) != LANE_OK) { fprintf(stderr, "%s\n", lane_last_error()); exit(1); }
 *     lane_all_reduce(comm, gradients, gradients, 1000, LANE_FLOAT32, LANE_SUM);
 *     lane_leave(comm);
 *
 * STATUS. Functions return LANE_OK or what went wrong; lane_last_error() then has the sentence. When a peer dies,
 * leaves, stops or calls something else, all ranks get one and the same status, with a sentence that names the rank,
 * the peer, the operation and its number; every later call with that communicator fails at once, and lane_leave() is
 * what is left to do. What can be seen to be wrong on this rank alone, such as NULL for a vector, is
 * LANE_INVALID_ARGUMENT before anything is sent: the communicator stays as it was. The other ranks meanwhile wait for
 * this one, until the timeout; a program that gives up tells them with lane_abort().
 *
 * MEMORY. Vectors are dense and in host memory, but where a function ends in _cuda in that of a GPU. They are the
 * caller's, and a call is done with them when it returns. The library keeps no pointer that it was given. A NULL vector
 * is right where the count is 0.
 *
 * THREADS. One thread at a time per communicator; different communicators may be used at the same time. A thread inside
 * a call must not be cancelled. After fork() the child uses none of its parent's communicators.
 *
 * The library prints nothing but what LANE_LOG asks for, installs no signal handler, never ends the process, and no C++
 * exception leaves it.
 *
 * COMPATIBILITY. Constants keep their values and functions their signatures for as long as the number in liblane.so.N
 * stays. Types are int and not enum, so that neither compiler flags nor other languages change their size.
 */
#ifndef LANE_H
#define LANE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define LANE_API __attribute__((visibility("default")))
#else
#define LANE_API
#endif

/* Of this header. Numbers compare as versions do: 1.2.3 is 10203. */
#define LANE_VERSION_MAJOR 0
#define LANE_VERSION_MINOR 1
#define LANE_VERSION_PATCH 0
#define LANE_VERSION_NUMBER (LANE_VERSION_MAJOR * 10000 + LANE_VERSION_MINOR * 100 + LANE_VERSION_PATCH)

/* LANE_VERSION_NUMBER of the library that runs. */
LANE_API int lane_version(void);

typedef int lane_status_t;
enum {
  LANE_OK = 0,
  LANE_INVALID_ARGUMENT = 1, /* the caller asked for something that cannot be */
  LANE_UNSUPPORTED = 2,      /* it could be, but this build or version does not do it */
  LANE_TIMEOUT = 3,          /* a wait reached its deadline */
  LANE_PEER_LOST = 4,        /* another rank died or left */
  LANE_SYSTEM_ERROR = 5,     /* the operating system refused */
  LANE_DEVICE_ERROR = 6,     /* the accelerator or its driver refused */
  LANE_CORRUPT_DATA = 7,     /* a file or message is not what its format says */
  LANE_CANCELLED = 8,        /* somebody asked to stop */
  LANE_BUG = 9               /* Lane broke a promise of its own */
};

/* A few words for a status: "a peer was lost". Never NULL, valid for ever. */
LANE_API const char* lane_status_string(lane_status_t status);

/* What the last call of this thread that failed has to say, in a sentence or two; "" if none failed. Valid until the
 * next call of this thread that fails. */
LANE_API const char* lane_last_error(void);

/* Types of elements. Values are the caller's bits: of the 16-bit types, uint16_t holds one. */
typedef int lane_dtype_t;
enum { LANE_FLOAT32 = 0, LANE_BFLOAT16 = 1, LANE_FLOAT16 = 2, LANE_INT32 = 3, LANE_UINT8 = 4 };

/* LANE_AVG: the sum divided by the number of ranks. int32 wraps around, and its average is rounded toward zero. */
typedef int lane_op_t;
enum { LANE_SUM = 0, LANE_MAX = 1, LANE_MIN = 2, LANE_PROD = 3, LANE_AVG = 4 };

/* One rank's seat in a group. */
typedef struct lane_comm* lane_comm_t;

/* How to join. Set struct_size to sizeof(lane_join_options_t) and everything else to 0: then fields that are left out,
 * and those that later versions add, have their defaults.
 *
 *     lane_join_options_t options = {sizeof(options)};
 *     options.timeout_ms = 5000;
 */
typedef struct lane_join_options {
  size_t struct_size;
  int rank;        /* 0 to size - 1 */
  int size;        /* number of ranks; 0: the launcher says, and rank, local_rank, job and rendezvous stay 0 */
  int local_rank;  /* place among the ranks of this host: who uses which interface */
  int timeout_ms;  /* for joining and for every wait of a collective; 0: LANE_TIMEOUT_MS, else 30 s */
  const char* job; /* the same on all ranks of this start, and different for any other; needed if size is over 1 */
  const char* algorithm;  /* an all-reduce schedule of docs/algorithms.md; NULL: LANE_ALGORITHM, else the fastest */
  const char* rendezvous; /* "host:port" where rank 0 listens; NULL: all ranks are on this host */
  const char* secret;     /* that the ranks of several hosts know and nobody else; NULL: LANE_SECRET */
  const char* nics;       /* interfaces or addresses for data; NULL: LANE_NICS, else the way to the rendezvous */
  const char* host;       /* another name for this host; NULL: LANE_HOST, else its own */
} lane_join_options_t;

/* Joins the other ranks and waits until all are there. With NULL, or with options whose size is 0, the variables of
 * whatever started the process say which rank it is: torchrun (RANK, WORLD_SIZE, ...), Open MPI (OMPI_COMM_WORLD_*),
 * MPICH and PMI (PMI_*) or Slurm (SLURM_*). Without any it is rank 0 of 1, a group that copies and waits for nobody.
 *
 * *comm is set to NULL unless LANE_OK is returned. Where ranks are missing, the sentence of LANE_TIMEOUT names them. */
LANE_API lane_status_t lane_join(const lane_join_options_t* options, lane_comm_t* comm);

/* Leaves and frees comm. What this rank sent before still arrives; a peer that waits for more gets LANE_PEER_LOST. Of
 * NULL it is LANE_OK and does nothing. */
LANE_API lane_status_t lane_leave(lane_comm_t comm);

/* Tells all other ranks why this one gives up, if comm has not failed before: their waits end at once, with
 * LANE_PEER_LOST and the reason. lane_leave() comes after it. */
LANE_API lane_status_t lane_abort(lane_comm_t comm, const char* reason);

/* -1 if comm is NULL. */
LANE_API int lane_rank(lane_comm_t comm);
LANE_API int lane_size(lane_comm_t comm);

/* *part is the group of the ranks that give the same color, ordered by key, those of equal keys by rank; with a
 * negative color a group of one. All ranks call it. The groups and comm live and fail independently; each is left by
 * itself. *part is set to NULL unless LANE_OK is returned. */
LANE_API lane_status_t lane_split(lane_comm_t comm, int color, int key, lane_comm_t* part);

/* COLLECTIVES. `count` is a number of elements. `in` and `out` lie apart, unless it is said how they may not. */

/* out[i] = in[i] over all ranks, for count elements; accumulated in float32 (int32 in itself) and rounded once: the
 * same bits on every rank and, for a given algorithm, in every run. Any type but LANE_UINT8. `in` and `out` may be the
 * same. */
LANE_API lane_status_t lane_all_reduce(lane_comm_t comm, const void* in, void* out, size_t count, lane_dtype_t dtype,
                                       lane_op_t op);

/* Of size * count elements of `in`, reduced over all ranks, part number `rank` comes to `out`: count elements. The
 * types of lane_all_reduce(). `out` may be this rank's part of `in`. */
LANE_API lane_status_t lane_reduce_scatter(lane_comm_t comm, const void* in, void* out, size_t count,
                                           lane_dtype_t dtype, lane_op_t op);

/* out: size * count elements, what each rank gave in rank order. `in` may be this rank's part of `out`. */
LANE_API lane_status_t lane_all_gather(lane_comm_t comm, const void* in, void* out, size_t count, lane_dtype_t dtype);

/* in and out: size parts of count elements. Part d of `in` goes to rank d, part s of `out` came
 * from rank s. */
LANE_API lane_status_t lane_all_to_all(lane_comm_t comm, const void* in, void* out, size_t count, lane_dtype_t dtype);

/* root's count elements reach all. */
LANE_API lane_status_t lane_broadcast(lane_comm_t comm, void* data, size_t count, lane_dtype_t dtype, int root);

/* Returns when all ranks have called it. */
LANE_API lane_status_t lane_barrier(lane_comm_t comm);

/* GPUS. Each rank has one; `device` is its number for CUDA in this process, `cuda_stream` the handle of one of its
 * streams, NULL for the default one. A library that was built without CUDA returns LANE_UNSUPPORTED. */

/* Prepares comm for vectors on that GPU, which takes seconds at most. All ranks call it, ahead of any graph capture;
 * without it, the first collective does it. */
LANE_API lane_status_t lane_open_device(lane_comm_t comm, int device);

/* As lane_all_reduce(), with in and out in the GPU's memory: puts the work onto the stream and returns. They stay alive
 * until the stream has passed them and need not be registered. The stream may be captured into a CUDA graph, whose
 * replays then count as calls: all ranks replay in the same order. */
LANE_API lane_status_t lane_all_reduce_cuda(lane_comm_t comm, const void* in, void* out, size_t count,
                                            lane_dtype_t dtype, lane_op_t op, int device, void* cuda_stream);

/* Waits for the stream and says whether a collective on it failed; after a replay of a graph this is where failures
 * show. */
LANE_API lane_status_t lane_wait_cuda(lane_comm_t comm, int device, void* cuda_stream);

#ifdef __cplusplus
}
#endif

#endif
