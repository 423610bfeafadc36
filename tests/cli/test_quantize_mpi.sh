#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# quantize under mpirun, through loopback and shared memory: the bytes of one rank on two and on
# three, one sentence when a rank fails, and going on after a rank was killed.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
if ! command -v mpirun >/dev/null; then
    echo "skipped: no mpirun here (Debian: openmpi-bin, libopenmpi-dev)"
    exit 0
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
    OMPI_MCA_btl=self,vader,tcp OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo \
    OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1
data="$golden/calib/calib.jsonl"
# quantize_on RANKS OUT ...: on one rank without mpirun
quantize_on() {
    local ranks=$1 out=$2 launch=()
    shift 2
    [ "$ranks" = 1 ] || launch=(mpirun -n "$ranks")
    "${launch[@]}" "$ballast" quantize "$golden/tiled/model" -o "$out" --calib "$data" --group 32 \
        --threads 1 "$@" </dev/null
}
quantize_on 2 probe.st --recipe rtn >probe.txt 2>&1 || true
if grep -q "built without MPI" probe.txt; then
    echo "skipped: built without MPI"
    exit 0
fi

same_on_all() {
    local ranks
    quantize_on 1 one.st --force --quiet "$@" >/dev/null
    for ranks in 2 3; do
        quantize_on "$ranks" many.st --force --quiet "$@" >out.txt
        holds [ "$(grep -c "bits per weight" out.txt)" = 1 ] # one rank speaks
        same one.st many.st "files of one and of $ranks ranks"
    done
}
same_on_all --recipe mbq
same_on_all --recipe awq+gptq
same_on_all --recipe awq+gptq --set objective=moments

# one rank sees no data
status 1 "rank 1: " mpirun -n 1 "$ballast" quantize "$golden/tiled/model" -o failed.st --calib "$data" \
    : -n 1 "$ballast" quantize "$golden/tiled/model" -o failed.st --calib /nowhere/data.jsonl
holds [ ! -e failed.st ]

# a rank is killed once a block is finished: nothing half-written, and three ranks go on
quantize_on 1 one.st --force --quiet --recipe mbq >/dev/null
mpirun -n 2 "$ballast" quantize "$golden/tiled/model" -o killed.st --calib "$data" --group 32 \
    --threads 1 --quiet --recipe mbq >killed.txt 2>&1 </dev/null &
launcher=$!
for _ in $(seq 600); do
    [ -e killed.st.partial/block_000.json ] && break
    sleep 0.05
done
read -r -a ranks <"/proc/$launcher/task/$launcher/children" || true
[ "${#ranks[@]}" -lt 2 ] || kill -9 "${ranks[1]}" || true
wait "$launcher" && killed=0 || killed=1
if [ "$killed" = 1 ]; then
    holds [ ! -e killed.st ]
    quantize_on 3 killed.st --quiet --recipe mbq --resume >/dev/null
fi
same one.st killed.st "a whole run and a killed one"
