#!/bin/busybox sh
# The first program of a guest: loads what the disk needs and hands over to it.
B=/bin/busybox
$B mount -t devtmpfs dev /dev
# Two passes: a module that needs another loads on the second.
for pass in 1 2; do
  for module in /modules/*.ko; do $B insmod "$module" 2>/dev/null; done
done
for try in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; $B sleep 0.3; done
$B mount -t ext4 /dev/vda /mnt && exec $B switch_root /mnt /guest-init.sh
echo "initrd: /dev/vda does not mount"
