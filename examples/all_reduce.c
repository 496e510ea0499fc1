/* Sums a vector over the ranks of a job, in C.
 *     cc all_reduce.c $(pkg-config --cflags --libs lane) -o all_reduce_c && mpirun -n 4 ./all_reduce_c */
#include <lane.h>
#include <stdio.h>

enum { COUNT = 1000 };

int main(void) {
  float values[COUNT];
  lane_comm_t comm;
  lane_status_t status = lane_join(NULL, &comm);
  if (status == LANE_OK) {
    for (int i = 0; i < COUNT; ++i) values[i] = (float)i * (float)(lane_rank(comm) + 1);
    status = lane_all_reduce(comm, values, values, COUNT, LANE_FLOAT32, LANE_SUM);
  }
  if (status == LANE_OK)
    printf("rank %d of %d: the sum of element 10 is %g\n", lane_rank(comm), lane_size(comm), values[10]);
  else
    fprintf(stderr, "%s: %s\n", lane_status_string(status), lane_last_error());
  lane_leave(comm);
  return status != LANE_OK;
}
