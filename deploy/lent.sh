#!/bin/sh
# A call of docs/training.md's "On a machine lent for minutes": train all of the data set $1 for 8.5 of its 10 minutes,
# and leave in $OUT what changed. The machine's own python3 holds torch; .carry/whl the two wheels it lacks.
set -eu
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .carry/whl/*.whl
export PYTHONPATH=/tmp/site PYTHONUNBUFFERED=1
exec python3 -m latentwire train all --data "$1" --data-root /root/data --out "runs/full-$1" --minutes 8.5 --outbox "$OUT"
