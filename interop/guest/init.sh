#!/bin/sh
# Process 1 of check_kernel.py's virtual machine: prepares it, runs /work.sh, switches it off. Lines that begin with '@' are for
# the script outside.
echo # what is on the screen already
export PATH=/bin:/sbin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp /mnt
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
echo /sbin/modprobe >/proc/sys/kernel/modprobe
echo 4 >/proc/sys/kernel/printk
for module in virtio_pci virtio_net cifs nls_utf8; do modprobe $module || echo "@bad module $module"; done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2

# ok NAME COMMAND…: one check; what a command that fails has printed follows its name.
ok() {
  name=$1
  shift
  if output=$("$@" 2>&1); then echo "@ok $name ($(cut -d' ' -f1 /proc/uptime))"
  else echo "@bad $name: $(echo "$output" | tail -n 3 | tr '\n' ' ')"; dmesg | tail -n 8; fi
}
. /work.sh
echo @end
poweroff -f
