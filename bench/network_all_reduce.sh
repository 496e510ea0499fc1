#!/usr/bin/env bash
# lane bench allreduce under Open MPI on emulated hosts (tools/netlab; needs root):
#   bench/network_all_reduce.sh HOSTS RANKS_PER_HOST [flags of lane bench allreduce]
# DELAY, RATE, MTU and LIMIT (seconds) in the environment change the network; BUILD is the build folder.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
build=$PWD/${BUILD:-build/release}
export NETLAB=$build/tools/netlab/netlab
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 TMPDIR=/dev/shm LANE_TUNING=${LANE_TUNING:-off}
LANE_SECRET=$(head -c 18 /dev/urandom | base64)
export LANE_SECRET

num_hosts=$1
names=() slots=()
for ((i = 0; i < num_hosts; ++i)); do names+=("h$i") slots+=("h$i:$2"); done
shift 2
join() { local IFS=,; echo "$*"; }

# mpi_yield_when_idle: without it the waiting ranks of Open MPI keep both the router and each other off the cores.
mpirun="mpirun --mca plm_rsh_agent '$NETLAB ssh' --mca mpi_yield_when_idle 1 --bind-to none --mca pml ob1
  --mca btl vader,tcp,self --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 -H $(join "${slots[@]}")
  -x LANE_SECRET -x LANE_TUNING -x LANE_RENDEZVOUS=h0:4477"
exec "$NETLAB" run --hosts "$(join "${names[@]}")" --delay "${DELAY:-0.5ms}" --rate "${RATE:-1gbit}" --mtu "${MTU:-9000}" \
  --spin 100us --timeout "${LIMIT:-200}s" --on-first -- \
  sh -c "$(echo "$mpirun" | tr '\n' ' ') $build/cli/lane bench allreduce $*"
