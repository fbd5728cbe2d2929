# At the head of every script that runs in a guest. The docker command takes a second of an emulated
# processor each time, and docker exec five: what is asked or started often does without them.
export PATH=/payload:$PATH NO_COLOR=1
# Patient with an Engine that has little processor.
export KEEPLINE_DOCKER_TIMEOUT=30s

# engine PATH [FILTERS]: what the Engine answers.
engine() {
  curl -sfG --unix-socket /var/run/docker.sock "http://docker/v1.41$1" ${2:+--data-urlencode "filters=$2"}
}

wait_for() { until "$@"; do sleep 0.5; done; }

# listed SERVICE: id and name of each of its containers here.
listed() {
  engine /containers/json "{\"label\":[\"com.docker.swarm.service.name=$1\"]}" |
    grep -oE '"Id":"[0-9a-f]{64}","Names":\["/[^"]+"' |
    sed -E 's/"Id":"(.*)","Names":\["\/(.*)"/\1 \2/'
}
containers() { listed "$1" | cut -d' ' -f1; }

# pid_of CONTAINER: the process that it began with.
pid_of() { engine "/containers/$1/json" | grep -oE '"Pid":[0-9]+' | cut -d: -f2; }

# inside SERVICE COMMAND…: runs it where docker exec would, in the namespaces and the control group
# of the service's container.
inside() (
  pid=$(pid_of "$(containers "$1")") || exit; shift
  group=$(sed 's/^0:://' "/proc/$pid/cgroup")
  echo $BASHPID >"/sys/fs/cgroup$group/cgroup.procs" || exit
  exec nsenter --all --target "$pid" -- "$@"
)

# all_run NUMBER NAMES: whether of so many services with these names (JSON list) all tasks run.
all_run() {
  engine "/services?status=true" "{\"name\":$2}" |
    grep -o '"RunningTasks":[0-9]*,"DesiredTasks":[0-9]*' |
    awk -F '[:,]' -v least="$1" '$2 != $4 || $4 == 0 { bad = 1 } END { exit bad || NR < least }'
}

# tasks_run NUMBER SERVICE: whether so many of the tasks that it should have run. The Engine's own count
# has old ones in it, which stop.
tasks_run() {
  [ "$(engine /tasks "{\"service\":[\"$2\"],\"desired-state\":[\"running\"]}" |
    grep -o '"State":"running"' | wc -l)" = "$1" ]
}

# start_dockerd: as at boot; does not wait for it.
start_dockerd() { (setsid dockerd >>/var/log/dockerd.log 2>&1 &) }
dockerd_answers() { docker info >/dev/null 2>&1; }
