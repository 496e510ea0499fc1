/* One rank of a job, for the tests of the C interface: c_rank SCENARIO. Who it is says the launcher, or the test with
 * the launcher's variables. Exits with 0 if all was as expected. */
#define _POSIX_C_SOURCE 200809L
#include <lane.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                              \
  do {                                                                                                \
    if (!(condition)) {                                                                               \
      fprintf(stderr, "%s:%d: %s is false; %s\n", __FILE__, __LINE__, #condition, lane_last_error()); \
      exit(1);                                                                                        \
    }                                                                                                 \
  } while (0)
#define OK(call) CHECK((call) == LANE_OK)

/* The call fails with this status, and the sentence contains the words. */
#define REFUSED(expected, words, call)                 \
  do {                                                 \
    CHECK((call) == (expected));                       \
    CHECK(strstr(lane_last_error(), (words)) != NULL); \
  } while (0)

static void* checked_malloc(size_t bytes) {
  void* memory = malloc(bytes + 1);
  CHECK(memory != NULL);
  memset(memory, 0xa5, bytes + 1);
  return memory;
}

static int32_t value_of(int rank, size_t i) { return (int32_t)(i * 7 % 1000) + 3 * rank; }

static void test_reductions(lane_comm_t comm, size_t count) {
  const int rank = lane_rank(comm), size = lane_size(comm);
  const size_t all = count * (size_t)size;
  int32_t* in = checked_malloc(all * 4);
  int32_t* out = checked_malloc(all * 4);
  float* floats = checked_malloc(count * 4);
  for (size_t i = 0; i < all; ++i) in[i] = value_of(rank, i);
  for (size_t i = 0; i < count; ++i) floats[i] = (float)value_of(rank, i);

  OK(lane_all_reduce(comm, in, out, count, LANE_INT32, LANE_SUM));
  for (size_t i = 0; i < count; ++i) CHECK(out[i] == size * value_of(0, i) + 3 * size * (size - 1) / 2);
  OK(lane_all_reduce(comm, in, out, count, LANE_INT32, LANE_MAX));
  for (size_t i = 0; i < count; ++i) CHECK(out[i] == value_of(size - 1, i));
  OK(lane_all_reduce(comm, in, out, count, LANE_INT32, LANE_MIN));
  for (size_t i = 0; i < count; ++i) CHECK(out[i] == value_of(0, i));
  OK(lane_all_reduce(comm, floats, floats, count, LANE_FLOAT32, LANE_AVG));
  for (size_t i = 0; i < count; ++i) {
    const float error = floats[i] - ((float)value_of(0, i) + 1.5f * (float)(size - 1));
    CHECK(error < 1e-3f && error > -1e-3f);
  }
  OK(lane_reduce_scatter(comm, in, out, count, LANE_INT32, LANE_SUM));
  for (size_t i = 0; i < count; ++i)
    CHECK(out[i] == size * value_of(0, (size_t)rank * count + i) + 3 * size * (size - 1) / 2);
  OK(lane_reduce_scatter(comm, in, in + (size_t)rank * count, count, LANE_INT32, LANE_SUM));
  CHECK(memcmp(in + (size_t)rank * count, out, count * 4) == 0);
  free(in), free(out), free(floats);
}

static void test_exchanges(lane_comm_t comm, size_t count) {
  const int rank = lane_rank(comm), size = lane_size(comm);
  const size_t all = count * (size_t)size;
  unsigned char* in = checked_malloc(all);
  unsigned char* out = checked_malloc(all);
  memset(in, 10 + rank, all);

  OK(lane_all_gather(comm, in, out, count, LANE_UINT8));
  for (size_t i = 0; i < all; ++i) CHECK(out[i] == 10 + i / count);
  memset(out, 0, all);
  if (count > 0) memset(out + (size_t)rank * count, 10 + rank, count);
  OK(lane_all_gather(comm, out + (size_t)rank * count, out, count, LANE_UINT8));
  for (size_t i = 0; i < all; ++i) CHECK(out[i] == 10 + i / count);

  for (size_t i = 0; i < all; ++i) in[i] = (unsigned char)(16 * rank + (int)(i / count));
  OK(lane_all_to_all(comm, in, out, count, LANE_UINT8));
  for (size_t i = 0; i < all; ++i) CHECK(out[i] == 16 * (i / count) + (size_t)rank);

  for (int root = 0; root < size; ++root) {
    memset(in, rank == root ? 77 + root : 0, all);
    OK(lane_broadcast(comm, in, all, LANE_UINT8, root));
    for (size_t i = 0; i < all; ++i) CHECK(in[i] == 77 + root);
  }
  CHECK(out[all] == 0xa5 && in[all] == 0xa5);
  free(in), free(out);
}

static void test_types(lane_comm_t comm) {
  /* 1.5 and 2.5 in either type: the sum over r of (rank 0: 1.5, others: 2.5) */
  uint16_t half = lane_rank(comm) == 0 ? 0x3e00 : 0x4100, brain = lane_rank(comm) == 0 ? 0x3fc0 : 0x4020;
  OK(lane_all_reduce(comm, &half, &half, 1, LANE_FLOAT16, LANE_MAX));
  OK(lane_all_reduce(comm, &brain, &brain, 1, LANE_BFLOAT16, LANE_PROD));
  CHECK(half == (lane_size(comm) == 1 ? 0x3e00 : 0x4100));
  const uint16_t products[] = {0, 0x3fc0, 0x4070, 0x4116}; /* 1.5, 3.75, 9.375 */
  CHECK(brain == products[lane_size(comm)]);
}

static void test_split(lane_comm_t comm) {
  const int rank = lane_rank(comm), size = lane_size(comm);
  lane_comm_t part = NULL, alone = NULL;
  OK(lane_split(comm, rank == 0 ? 0 : 1, -rank, &part));
  CHECK(lane_size(part) == (rank == 0 ? 1 : size - 1));
  CHECK(lane_rank(part) == (rank == 0 ? 0 : size - 1 - rank));
  int32_t one = 1;
  OK(lane_all_reduce(part, &one, &one, 1, LANE_INT32, LANE_SUM));
  CHECK(one == lane_size(part));
  OK(lane_split(comm, -1, 0, &alone));
  CHECK(lane_size(alone) == 1);
  OK(lane_leave(alone));
  OK(lane_barrier(part));
  OK(lane_leave(part));
}

static void all_calls(lane_comm_t comm) {
  const size_t counts[] = {0, 1, 7, 1000, 100003};
  CHECK(lane_rank(comm) >= 0 && lane_rank(comm) < lane_size(comm));
  for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); ++i) {
    test_reductions(comm, counts[i]);
    test_exchanges(comm, counts[i]);
  }
  test_types(comm);
  test_split(comm);
  OK(lane_barrier(comm));
}

static void* other_thread(void* unused) {
  (void)unused;
  CHECK(strcmp(lane_last_error(), "") == 0);
  CHECK(lane_rank(NULL) == -1);
  CHECK(strstr(lane_last_error(), "lane_rank") != NULL);
  return NULL;
}

/* Every wrong argument that one rank sees by itself. */
static void wrong_arguments(void) {
  struct {
    lane_join_options_t known;
    char later[24];
  } later;
  lane_comm_t comm = NULL, part = NULL;
  float x = 1;
  float* const y = &x;
  CHECK(strcmp(lane_last_error(), "") == 0);
  REFUSED(LANE_INVALID_ARGUMENT, "comm is NULL", lane_join(NULL, NULL));

  lane_join_options_t options = {0};
  comm = (lane_comm_t)&x;
  REFUSED(LANE_INVALID_ARGUMENT, "struct_size is 0", lane_join(&options, &comm));
  CHECK(comm == NULL);
  options.struct_size = sizeof(options);
  options.timeout_ms = -1;
  REFUSED(LANE_INVALID_ARGUMENT, "timeout_ms is -1", lane_join(&options, &comm));
  options.timeout_ms = 0;
  options.rank = 1;
  REFUSED(LANE_INVALID_ARGUMENT, "set size as well", lane_join(&options, &comm));
  options.size = 1;
  REFUSED(LANE_INVALID_ARGUMENT, "rank 1 of 1", lane_join(&options, &comm));
  options.size = -1;
  REFUSED(LANE_INVALID_ARGUMENT, "rank 1 of -1", lane_join(&options, &comm));
  options.size = 2;
  REFUSED(LANE_INVALID_ARGUMENT, "job", lane_join(&options, &comm));
  options.job = "x";
  options.algorithm = "magic";
  REFUSED(LANE_INVALID_ARGUMENT, "magic", lane_join(&options, &comm));

  memset(&later, 0, sizeof(later));
  later.known.struct_size = sizeof(later);
  later.later[23] = 1;
  REFUSED(LANE_UNSUPPORTED, "later version", lane_join(&later.known, &comm));
  later.later[23] = 0;
  OK(lane_join(&later.known, &comm));
  OK(lane_leave(comm));

  OK(lane_join(NULL, &comm));
  CHECK(lane_rank(comm) == 0 && lane_size(comm) == 1);
  all_calls(comm);
  const lane_status_t bad = LANE_INVALID_ARGUMENT;
  CHECK(lane_rank(NULL) == -1 && lane_size(NULL) == -1);
  REFUSED(bad, "lane_all_reduce: comm", lane_all_reduce(NULL, y, y, 1, LANE_FLOAT32, LANE_SUM));
  REFUSED(bad, "lane_all_reduce: in is NULL", lane_all_reduce(comm, NULL, y, 1, LANE_FLOAT32, LANE_SUM));
  REFUSED(bad, "lane_all_reduce: out is NULL", lane_all_reduce(comm, y, NULL, 1, LANE_FLOAT32, LANE_SUM));
  REFUSED(bad, "no dtype 5", lane_all_reduce(comm, y, y, 1, 5, LANE_SUM));
  REFUSED(bad, "no dtype -1", lane_all_reduce(comm, y, y, 1, -1, LANE_SUM));
  REFUSED(bad, "no op 5", lane_all_reduce(comm, y, y, 1, LANE_FLOAT32, 5));
  REFUSED(bad, "no op -1", lane_reduce_scatter(comm, y, y, 1, LANE_FLOAT32, -1));
  REFUSED(bad, "negative", lane_all_reduce(comm, y, y, (size_t)-1, LANE_FLOAT32, LANE_SUM));
  REFUSED(LANE_UNSUPPORTED, "uint8", lane_all_reduce(comm, y, y, 1, LANE_UINT8, LANE_SUM));
  REFUSED(bad, "lane_reduce_scatter: comm", lane_reduce_scatter(NULL, y, y, 1, LANE_FLOAT32, LANE_SUM));
  REFUSED(bad, "lane_reduce_scatter: in", lane_reduce_scatter(comm, NULL, y, 1, LANE_FLOAT32, LANE_SUM));
  REFUSED(bad, "lane_all_gather: comm", lane_all_gather(NULL, y, y, 1, LANE_FLOAT32));
  REFUSED(bad, "lane_all_gather: out", lane_all_gather(comm, y, NULL, 1, LANE_FLOAT32));
  REFUSED(bad, "lane_all_to_all: comm", lane_all_to_all(NULL, y, y, 1, LANE_FLOAT32));
  REFUSED(bad, "lane_all_to_all: in", lane_all_to_all(comm, NULL, y, 1, LANE_FLOAT32));
  REFUSED(bad, "lane_broadcast: comm", lane_broadcast(NULL, y, 1, LANE_FLOAT32, 0));
  REFUSED(bad, "lane_broadcast: data", lane_broadcast(comm, NULL, 1, LANE_FLOAT32, 0));
  REFUSED(bad, "no rank 1 among 1", lane_broadcast(comm, y, 1, LANE_FLOAT32, 1));
  REFUSED(bad, "no rank -1", lane_broadcast(comm, y, 1, LANE_FLOAT32, -1));
  REFUSED(bad, "lane_barrier: comm", lane_barrier(NULL));
  REFUSED(bad, "lane_open_device: comm", lane_open_device(NULL, 0));
  REFUSED(bad, "no device -1", lane_open_device(comm, -1));
  REFUSED(bad, "lane_all_reduce_cuda: comm", lane_all_reduce_cuda(NULL, y, y, 1, LANE_FLOAT32, LANE_SUM, 0, NULL));
  REFUSED(bad, "lane_all_reduce_cuda: in", lane_all_reduce_cuda(comm, NULL, y, 1, LANE_FLOAT32, LANE_SUM, 0, NULL));
  REFUSED(bad, "no dtype 5", lane_all_reduce_cuda(comm, y, y, 1, 5, LANE_SUM, 0, NULL));
  REFUSED(bad, "no op 5", lane_all_reduce_cuda(comm, y, y, 1, LANE_FLOAT32, 5, 0, NULL));
  REFUSED(bad, "no device -1", lane_all_reduce_cuda(comm, y, y, 1, LANE_FLOAT32, LANE_SUM, -1, NULL));
  REFUSED(bad, "lane_wait_cuda: comm", lane_wait_cuda(NULL, 0, NULL));
  REFUSED(bad, "lane_split: comm", lane_split(NULL, 0, 0, &part));
  REFUSED(bad, "lane_split: part", lane_split(comm, 0, 0, NULL));
  REFUSED(bad, "lane_abort: comm", lane_abort(NULL, "why"));
  OK(lane_abort(comm, NULL));
  OK(lane_leave(NULL));
  OK(lane_leave(comm));

  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, other_thread, NULL) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(strstr(lane_last_error(), "lane_abort") != NULL); /* not the other thread's */

  CHECK(lane_version() == LANE_VERSION_NUMBER);
  for (int status = LANE_OK; status <= LANE_BUG; ++status)
    CHECK(strcmp(lane_status_string(status), lane_status_string(-1)) != 0);
}

/* Of a library without CUDA: the communicator stays as it was. */
static void without_cuda(lane_comm_t comm) {
  float x = 1;
  if (lane_size(comm) > 1) REFUSED(LANE_UNSUPPORTED, "has no CUDA", lane_open_device(comm, 0));
  REFUSED(LANE_UNSUPPORTED, "has no CUDA", lane_all_reduce_cuda(comm, &x, &x, 1, LANE_FLOAT32, LANE_SUM, 0, NULL));
  REFUSED(LANE_UNSUPPORTED, "has no CUDA", lane_wait_cuda(comm, 0, NULL));
  all_calls(comm);
}

/* What an all-reduce that cannot succeed returns, as a line that the test compares among the ranks. */
static void report(lane_comm_t comm, lane_status_t status) {
  float x = 1;
  fprintf(stderr, "rank %d: status %d: %s\n", lane_rank(comm), status, lane_last_error());
  CHECK(lane_all_reduce(comm, &x, &x, 1, LANE_FLOAT32, LANE_SUM) == status); /* and every later call */
  CHECK(lane_barrier(comm) == status);
}

int main(int argc, char** argv) {
  const char* scenario = argc > 1 ? argv[1] : "";
  float values[3] = {1, 2, 3};
  float* const x = values;
  lane_comm_t comm = NULL;
  if (strcmp(scenario, "wrong_arguments") == 0) {
    wrong_arguments();
    return 0;
  }
  lane_join_options_t options = {sizeof(options), 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL};
  if (strcmp(scenario, "options") == 0) { /* rank size job */
    CHECK(argc == 5);
    options.rank = atoi(argv[2]);
    options.size = atoi(argv[3]);
    options.job = argv[4];
    options.algorithm = "ring";
  }
  options.timeout_ms = strcmp(scenario, "missing") == 0 ? 300 : 20000;
  const lane_status_t joined = lane_join(&options, &comm);
  if (strcmp(scenario, "missing") == 0) {
    CHECK(joined == LANE_TIMEOUT && comm == NULL);
    fprintf(stderr, "%s\n", lane_last_error());
    return 0;
  }
  CHECK(joined == LANE_OK);

  const int rank = lane_rank(comm), size = lane_size(comm), victim = size - 1;
  OK(lane_all_reduce(comm, x, x, 3, LANE_FLOAT32, LANE_SUM));
  CHECK(x[2] == 3.0f * (float)size);
  if (strcmp(scenario, "all") == 0 || strcmp(scenario, "options") == 0) {
    all_calls(comm);
  } else if (strcmp(scenario, "without_cuda") == 0) {
    without_cuda(comm);
  } else if (strcmp(scenario, "local_error") == 0) { /* and all goes on */
    if (rank == victim) REFUSED(LANE_INVALID_ARGUMENT, "NULL", lane_all_gather(comm, NULL, x, 1, LANE_FLOAT32));
    all_calls(comm);
  } else if (strcmp(scenario, "count") == 0) {
    report(comm, lane_all_reduce(comm, x, x, rank == victim ? 2 : 3, LANE_FLOAT32, LANE_SUM));
  } else if (strcmp(scenario, "dtype") == 0) {
    report(comm, lane_all_reduce(comm, x, x, 3, rank == victim ? LANE_INT32 : LANE_FLOAT32, LANE_SUM));
  } else if (strcmp(scenario, "op") == 0) {
    report(comm, lane_all_reduce(comm, x, x, 3, LANE_FLOAT32, rank == victim ? LANE_MAX : LANE_SUM));
  } else if (strcmp(scenario, "killed") == 0) {
    if (rank == victim) raise(SIGKILL);
    report(comm, lane_all_reduce(comm, x, x, 3, LANE_FLOAT32, LANE_SUM));
  } else if (strcmp(scenario, "left") == 0) {
    if (rank != victim) report(comm, lane_all_reduce(comm, x, x, 3, LANE_FLOAT32, LANE_SUM));
  } else if (strcmp(scenario, "gives_up") == 0) {
    if (rank == victim)
      OK(lane_abort(comm, "layer 3 is missing"));
    else
      report(comm, lane_all_reduce(comm, x, x, 3, LANE_FLOAT32, LANE_SUM));
  } else {
    CHECK(!"a scenario of this name");
  }
  OK(lane_leave(comm));
  return 0;
}
