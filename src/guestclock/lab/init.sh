#!/bin/busybox sh
# /init of a lab: file systems, KVM, a settled clocksource, the program, power off.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
$b mount -t tmpfs tmpfs /tmp
$b mount -t debugfs debugfs /sys/kernel/debug
$b mount -t tracefs tracefs /sys/kernel/tracing

# x86's other CPUs come here, not at boot: QEMU 7.2 under icount gives them a turn only when CPU 0 halts or says PAUSE,
# which 6.1 does not do while it waits for them. With a process that says it all the time, it works on every kernel.
if [ -x /bin/yielder ]; then
    /bin/yielder &
    yielder=$!
fi
for online in /sys/devices/system/cpu/cpu[1-9]*/online; do
    [ -e "$online" ] && [ "$($b cat "$online")" = 0 ] && echo 1 > "$online"
done
[ -n "$yielder" ] && $b kill $yielder

while read -r module; do
    $b insmod "/modules/$module.ko" || echo "lab: module $module does not load"
done < /modules/order

# Idle time costs what wakes up in it: without these two, half a minute of wall time per hour.
echo 0 > /proc/sys/vm/compaction_proactiveness
echo 3600 > /proc/sys/vm/stat_interval

# tsc-early gives way to tsc about 2 s after boot; until then KVM has no masterclock to work with
tries=0
while [ $tries -lt 100 ] && $b grep -q tsc-early /sys/devices/system/clocksource/clocksource0/current_clocksource; do
    $b sleep 0.1
    tries=$((tries + 1))
done

# It stops the machine twice (see exchange.py); what comes back here has failed.
cd /lab || exit 1
# No seed for hashes is asked of the kernel: where there is no entropy, it would wait for some.
PYTHONHASHSEED=0 /usr/bin/python3.11 -S -m guestclock.lab.inside < /dev/null
$b poweroff -f
