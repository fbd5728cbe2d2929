#!/bin/bash
# PID 1 of a guest: mounts, modules, network; then runs the commands that the harness
# sends over a virtio port, one at a time.
#
#   harness: "ID SECONDS LENGTH\n", then LENGTH bytes of bash
#   guest:   "keepline ID STATUS OUT ERR\n", then OUT bytes of stdout, ERR bytes of stderr
# A command that runs longer than SECONDS is killed; its status is 124 or 137. Processes
# that it left in the background stay.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc; mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run; mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount -t bpf bpf /sys/fs/bpf
ip link set lo up

for module in virtio_console virtio_net ip_vs ip_vs_rr ip_vs_mh nf_conntrack nf_conntrack_netlink \
              xt_ipvs overlay bridge br_netfilter vxlan veth dummy; do
  modprobe "$module" || echo "guest: no module $module"
done
update-alternatives --set iptables /usr/sbin/iptables-legacy >/dev/null 2>&1

node=$(grep -oE 'node=[0-9]+' /proc/cmdline | cut -d= -f2); hostname "node$node"
echo "127.0.0.1 localhost node$node" >/etc/hosts
# The virtio driver may still be at work. A guest alone has no card, and Docker wants an
# address to advertise: a dummy does.
grep -q nic=yes /proc/cmdline &&
  for try in 1 2 3 4 5 6 7 8 9 10; do [ -e /sys/class/net/eth0 ] && break; sleep 0.3; done
nic=eth0; [ -e /sys/class/net/eth0 ] || { nic=dummy1; ip link add dummy1 type dummy; }
ip addr add "192.168.77.$node/24" dev "$nic"; ip link set "$nic" up
[ -b /dev/vdb ] && mkdir -p /payload && mount -o ro /dev/vdb /payload

for try in 1 2 3 4 5 6 7 8 9 10; do [ -e /dev/vport0p1 ] && break; sleep 0.2; done
exec 3<>/dev/vport0p1
echo "keepline 0 0 0 0" >&3
while read -r id seconds length <&3; do
  rm -f /run/kl.*    # a process left in the background may still write to the last ones
  head -c "$length" <&3 >/run/kl.command
  cd /root
  timeout -k 5 "$seconds" bash /run/kl.command >/run/kl.out 2>/run/kl.err </dev/null 3>&-
  status=$?
  # The sizes once, then exactly so much: a background process may write more meanwhile.
  out=$(stat -c %s /run/kl.out) err=$(stat -c %s /run/kl.err)
  echo "keepline $id $status $out $err" >&3
  head -c "$out" /run/kl.out >&3; head -c "$err" /run/kl.err >&3
done
echo "guest: the harness is gone"   # PID 1 ends: panic=-1 and -no-reboot end the machine
