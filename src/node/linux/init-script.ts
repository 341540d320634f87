// /init of the Linux guests, as text: the first thing that user space does, written to be read on the
// console. It needs busybox and nothing else.
//
//   BOOT-OK   is printed at once.
//   steps     each prints one line, "ok" or "FAILED"; then ALL-OK only if none failed.
//   the end   power-off, or a shell if the kernel's command line has `rexen.shell`.
//
// Words of the command line: rexen.shell; rexen.steps=disk,net (default: both; `none`);
// rexen.peer=ADDRESS of a second domain to ping.

/** Where the address that DHCP gave is written down. */
const LEASE = '/run/lease';

export const UDHCPC_SCRIPT = `#!/bin/sh
# Called by udhcpc with what the server said.
case "$1" in
  deconfig) ip link set "$interface" up ;;
  bound|renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/$mask" dev "$interface"
    [ -n "$router" ] && ip route add default via "$router" dev "$interface"
    echo "ip=$ip router=$router" > ${LEASE}
    ;;
esac
`;

export const INIT_SCRIPT = `#!/bin/busybox sh
/bin/busybox echo BOOT-OK
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run

shell=0 steps=disk,net peer=
for word in $(cat /proc/cmdline); do
  case "$word" in
    rexen.shell) shell=1 ;;
    rexen.steps=*) steps=\${word#*=} ;;
    rexen.peer=*) peer=\${word#*=} ;;
  esac
done

failed=0
step() { # step NAME COMMAND...: runs it, says how it went
  name=$1; shift
  if "$@" > /run/step.log 2>&1; then echo "ok      $name"
  else failed=1; echo "FAILED  $name"; cat /run/step.log; fi
}
wait_for() { # wait_for TEST PATH: at most ten seconds
  for i in $(seq 100); do [ "$1" "$2" ] && return 0; usleep 100000; done
  echo "$2 did not appear"; return 1
}

load_modules() { while read -r module; do insmod "/modules/$module.ko" || return 1; done < /modules/order; }
mount_disk() { wait_for -b /dev/xvda && mount -t ext4 /dev/xvda /mnt; }
check_files() { (cd /mnt && sha256sum -c SHA256SUMS); }
write_file() { seq 1 40000 > /mnt/written && sha256sum < /mnt/written > /run/sum && sync; }
read_back() { umount /mnt && mount_disk && sha256sum < /mnt/written > /run/sum2 && cmp /run/sum /run/sum2; }
get_address() { wait_for -d /sys/class/net/eth0 && ip link set lo up && ip link set eth0 up && udhcpc -i eth0 -n -q -f -t 5 -T 1 -s /udhcpc.sh && . ${LEASE} && [ -n "$ip" ]; }
ping_gateway() { . ${LEASE} && ping -c 3 -W 2 "$router"; }
ping_peer() { ping -c 3 -W 2 "$peer"; }

step "modules are loaded" load_modules
case ",$steps," in *,disk,*)
  step "the root disk is mounted" mount_disk
  step "its files have their checksums" check_files
  step "a file is written" write_file
  step "it is read back from the disk" read_back
  umount /mnt
esac
case ",$steps," in *,net,*)
  step "eth0 has an address" get_address
  step "the gateway answers" ping_gateway
  [ -n "$peer" ] && step "the second domain answers" ping_peer
esac
[ $failed = 0 ] && echo ALL-OK
[ $shell = 1 ] && setsid cttyhack sh
poweroff -f
`;
