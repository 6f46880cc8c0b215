# The first process of a cluster: makes the world that everything else of it runs in, then reaps until it is killed.
# What is mounted, routed or filtered here is seen by nobody outside and is gone, all of it, with this process.
set -eu
dir=$1 group=$2 address=$3

# Pods' mounts have to reach every process of the cluster (kubelet insists), but never the machine.
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir -p "$dir/var-lib"
mount --bind "$dir/var-lib" /var/lib
mkdir -p /run/netns

ip link set lo up
ip address add "$address/32" dev lo
# A default route into a wire whose both ends are in here: service addresses need a route before they are rewritten,
# and what is not rewritten goes nowhere.
ip link add out0 type veth peer name out1
ip link set out0 up
ip link set out1 up
ip route add default dev out0 src "$address"
echo 1 >/proc/sys/net/ipv4/ip_forward

if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  mkdir -p "/sys/fs/cgroup/$group"
  echo '+cpu +cpuset +memory +pids +io' >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
  echo '+cpu +cpuset +memory +pids +io' >"/sys/fs/cgroup/$group/cgroup.subtree_control" 2>/dev/null || true
else
  for hierarchy in /sys/fs/cgroup/*; do
    mkdir -p "$hierarchy/$group" 2>/dev/null || continue
    for file in cpuset.cpus cpuset.mems; do
      if [ -f "$hierarchy/$file" ]; then cat "$hierarchy/$file" >"$hierarchy/$group/$file"; fi
    done
  done
fi

: >"$dir/world-is-made"
while :; do
  sleep 3600 &
  wait $! || true
done
