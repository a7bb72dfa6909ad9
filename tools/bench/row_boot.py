"""Power-on to userland of one virtual server (QEMU, TCG): the same firmware, boot programs, kernel, root and machine, once booted by Pristine,
once by it with its root streamed, once by dnsmasq and nginx set up as their manuals and iPXE's say, and once by them with all that is known to be slow taken away. Of two images:
the tests' tiny one (3 MB), where all that counts is what happens around it, and a Debian 12 (116 MB).

The peers' initramfs is the plain one: busybox, an address by DHCP, the whole root by wget into memory, a loop device, an overlay, switch_root.
Userland is the first line of the image's own init on the serial console. The switch has a namespace of its own, as in `pristine lab`.
"""

import json
import os
import re
import shutil
import time
from pathlib import Path

from frame import ROOT, Failed, Netns, Process, in_turns, median, run, say, wait_for
from pristine import NBP, PROGRAM, Service
from row_http import nginx

OVMF_CODE, OVMF_VARS = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
FIRMWARE = {"bios": "<= 0.55", "uefi-pxe": "<= 0.7", "uefi-http": "<= 0.7"}
MAC = "52:54:00:19:81:01"
SERVER = "198.18.0.1"
BOUND = 240

# Of each part the manual's own example: dnsmasq(8) and iPXE's page on chainloading.
MANUAL = """port=0
interface=eth0
dhcp-range=198.18.0.100,198.18.0.200,1h
enable-tftp
tftp-root={www}
dhcp-match=set:ipxe,175
dhcp-match=set:efi64,option:client-arch,7
dhcp-match=set:http,option:client-arch,16
dhcp-boot=tag:!ipxe,undionly.kpxe
dhcp-boot=tag:efi64,tag:!ipxe,snponly.efi
dhcp-option-force=tag:http,tag:!ipxe,60,HTTPClient
dhcp-boot=tag:http,tag:!ipxe,http://{server}:8080/snponly.efi
dhcp-boot=tag:ipxe,http://{server}:8080/boot.ipxe
"""
# No wait for a ping, none for a proxy DHCP server, none for a router.
TUNED = MANUAL + """no-ping
dhcp-authoritative
dhcp-option-force=tag:ipxe,175,b0:01:01
enable-ra
ra-param=eth0,0,0
dhcp-range=fd00:198:18::,ra-only
"""

INIT = """#!/bin/sh
echo initramfs: up
/bin/busybox mkdir -p /proc /sys /dev /run /new
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
for module in virtio_pci virtio_net af_packet loop squashfs overlay; do modprobe $module 2>/dev/null; done
ip link set eth0 up
udhcpc -i eth0 -q -n -t 20 -T 1 -s /lease
mount -t tmpfs -o size=80%% tmpfs /run
wget -q -O /run/root.squashfs http://%s:8080/root || exec sh
mkdir -p /run/lower /run/upper /run/work
mount -t squashfs -o loop,ro /run/root.squashfs /run/lower
mount -t overlay -o lowerdir=/run/lower,upperdir=/run/upper,workdir=/run/work overlay /new
echo initramfs: over to the image
exec switch_root /new /sbin/init
""" % SERVER
LEASE = """#!/bin/sh
[ "$1" = bound ] && ip addr add "$ip/${mask:-24}" dev "$interface"
exit 0
"""


def qemu(firmware, folder, log):
    args = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-machine", "q35,graphics=off", "-m", "2048",
        "-smp", "1", "-accel", "tcg", "-cpu", "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16", "-device", "virtio-rng-pci", "-serial",
        f"file:{log}", "-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no",
    ]
    uefi = firmware != "bios"
    args += ["-device", f"virtio-net-pci,netdev=net,mac={MAC},bootindex=1" + (",romfile=" if uefi else "")]
    if not uefi:
        return args + ["-boot", "menu=off,reboot-timeout=3000"]
    shutil.copyfile(OVMF_VARS, folder / "vars")
    args += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={OVMF_CODE}", "-drive", f"if=pflash,format=raw,unit=1,file={folder / 'vars'}"]
    off = ["IPv6PXESupport"] if firmware == "uefi-pxe" else ["IPv4PXESupport", "IPv6PXESupport"]
    return args + [word for name in off for word in ("-fw_cfg", f"name=opt/org.tianocore/{name},string=n")]


class Switch:
    """A bridge in a namespace of its own, the server on it in another, and a tap for the machine."""

    def __enter__(self):
        self.switch, self.server = Netns(), Netns()
        self.switch.ip("link", "add", "sw0", "type", "bridge")
        self.switch.ip("link", "set", "sw0", "up")
        self.switch.ip("link", "add", "port0", "type", "veth", "peer", "name", "eth0", "netns", self.server.name)
        self.switch.ip("link", "set", "port0", "master", "sw0", "up")
        self.server.ip("addr", "add", f"{SERVER}/24", "dev", "eth0")
        # dnsmasq advertises prefixes that it has an address of.
        self.server.ip("addr", "add", "fd00:198:18::1/64", "dev", "eth0", "nodad")
        self.server.ip("link", "set", "eth0", "up")
        self.switch.ip("tuntap", "add", "tap0", "mode", "tap")
        self.switch.ip("link", "set", "tap0", "master", "sw0", "up")
        return self

    def __exit__(self, *_):
        self.server.close()
        self.switch.close()


# Of each image, what its own init says first.
IMAGES = {"tiny:1": b"tiny: tiny:1 up", "debian:1": b"Welcome to "}
# What the initramfs's init says first and last. What comes before is firmware, iPXE and kernel, the same on both sides; what comes after is the image's.
OURS_SAYS, PEERS_SAY = (b"pristine: init ", b"pristine: over to "), (b"initramfs: up", b"initramfs: over to ")
# How roots come: whole, which is the default, and as they are read.
OURS = {"pristine": "", "streamed": ", root streamed"}
# What the peers' initramfs loads.
MODULES = "virtio_pci virtio_net af_packet loop squashfs overlay"


def manifest(folder, tag):
    return json.loads(run(PROGRAM, "--state-dir", folder / "state", "image", "show", tag, "--json"))["manifest"]


def parts(folder, tag):
    """The image for us, and the same kernel, modules and root for the peers."""
    tree, www = folder / "tree", folder / "www"
    www.mkdir()
    for name in ("undionly.kpxe", "snponly.efi"):
        shutil.copyfile(NBP / name, www / name)
    shutil.copytree(ROOT / "target/images/state", folder / "state", symlinks=True)
    shown = manifest(folder, tag)
    busybox = manifest(folder, "tiny:1")["rootfs"]["blob"]
    with Switch() as switch, start("pristine", switch, folder, tag):
        for path, blob in ((www / "vmlinuz", shown["kernel"]), (www / "root", shown["rootfs"]["blob"]), (folder / "tiny", busybox)):
            switch.server.run("curl", "-sf", "-o", path, f"http://{SERVER}/blobs/{blob['digest']}")
    run("unsquashfs", "-q", "-n", "-d", tree, www / "root", "lib/modules", "usr/lib/modules")
    run("unsquashfs", "-q", "-n", "-f", "-d", folder / "tree-tiny", folder / "tiny", "bin/busybox")
    modules = next(path for path in tree.glob("**/lib/modules/*") if path.is_dir())
    initramfs = folder / "initramfs"
    (initramfs / "bin").mkdir(parents=True)
    shutil.copy(folder / "tree-tiny/bin/busybox", initramfs / "bin/busybox")
    os.symlink("busybox", initramfs / "bin/sh")
    for name in MODULES.split():
        # `insmod FILE` for the module and all that it needs, `builtin NAME` for what is none.
        lines = run("modprobe", "--dirname", modules.parents[2], "--set-version", modules.name, "--show-depends", name, ok=(0, 1))
        for line in lines.splitlines():
            if line.startswith("insmod "):
                path = Path(line.split()[1])
                into = initramfs / "lib/modules" / path.relative_to(modules.parent)
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, into)
    for path in modules.glob("modules.[ob]*"):
        shutil.copy(path, initramfs / "lib/modules" / modules.name)
    run("depmod", "-b", initramfs, modules.name)
    for name, text in (("init", INIT), ("lease", LEASE)):
        (initramfs / name).write_text(text)
        (initramfs / name).chmod(0o755)
    run("sh", "-c", f"find . | cpio --quiet -o -H newc | gzip -9 >{www}/initrd.img", cwd=initramfs)
    line = f"{shown['cmdline']} rdinit=/init"
    (www / "boot.ipxe").write_text(
        f"#!ipxe\nkernel http://{SERVER}:8080/vmlinuz initrd=initrd.img {line}\ninitrd http://{SERVER}:8080/initrd.img\nboot\n"
    )


class Peers:
    """dnsmasq and nginx."""

    def __init__(self, switch, folder, text):
        conf = folder / "dnsmasq.conf"
        conf.write_text(text.format(www=folder / "www", server=SERVER))
        (folder / "dnsmasq.leases").unlink(missing_ok=True)
        self.web = nginx(switch, folder)
        args = ["dnsmasq", "--keep-in-foreground", f"--conf-file={conf}", f"--dhcp-leasefile={folder / 'dnsmasq.leases'}", "--pid-file=",
                "--user=root", "--log-facility=-"]
        self.dhcp = Process("dnsmasq", args, folder / "dnsmasq.log", switch.server)
        wait_for("dnsmasq does not listen", lambda: ":67" in switch.server.run("ss", "-Hlun"), 20, self.dhcp)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.dhcp.stop()
        self.web.stop()


def start(which, switch, folder, tag):
    if which == "manual":
        return Peers(switch, folder, MANUAL)
    if which == "tuned":
        return Peers(switch, folder, TUNED)
    for name in ("pristine.db", "pristine.db-wal", "pristine.db-shm"):
        (folder / "state" / name).unlink(missing_ok=True)
    service = Service(switch.server, folder / "state", subnet=False, roots="stream" if which == "streamed" else "fetch")
    service.command("default", tag)
    return service


def boot(which, firmware, folder, tag):
    """Seconds that a boot took from power-on to the first line of userland, and of those until the initramfs ran, in it, and in the image; and what
    the proof of a root that is fetched took. QEMU starts the machine at once."""
    log = folder / "console"
    log.write_bytes(b"")
    first, last = OURS_SAYS if which in OURS else PEERS_SAY
    with Switch() as switch, start(which, switch, folder, tag):
        began = time.monotonic()
        with Process("QEMU", qemu(firmware, folder, log), folder / "qemu.log", switch.switch) as machine:
            def until(what, line):
                try:
                    wait_for(f"{which}, {firmware}: no {what}", lambda: line in log.read_bytes(), BOUND, machine)
                except Failed as why:
                    raise Failed(f"{why}; the console says: {log.read_text(errors='replace')[-300:]!r}") from None
                return time.monotonic() - began
            before = until("initramfs", first)
            over = until("hand-over", last)
            took = until("userland", IMAGES[tag])
    proof = re.search(r"every block proven: .* s, ([\d.]+) of them to prove it", log.read_text(errors="replace"))
    say(f"boot: {tag} {which} {firmware} {took:.1f} s")
    return {"took": took, "before": before, "initramfs": over - before, "image": took - over, "proof": float(proof[1]) if proof else 0.0}


def rows(table, work, rounds, quick):
    for tag in IMAGES:
        folder = work / f"boot-{tag.partition(':')[0]}"
        folder.mkdir()
        parts(folder, tag)
        for firmware, reach in FIRMWARE.items():
            ways = {w: lambda w=w: boot(w, firmware, folder, tag) for w in (*OURS, "manual", "tuned")}
            turns = in_turns(1 if quick else min(rounds, 3), ways)
            at = {w: {k: median([run[k] for run in runs]) for k in runs[0]} for w, runs in turns.items()}
            for mine, how in OURS.items():
                what = f"power-on to userland, {tag}, {firmware}{how}"
                for peer, name, bound in (("manual", "dnsmasq + nginx", reach), ("tuned", "the same, tuned", "<= 0.95")):
                    ours, theirs = at[mine], at[peer]
                    ratio = ours["took"] / theirs["took"]
                    part = lambda key: f"{ours[key]:.1f} by {theirs[key]:.1f}"
                    # What is ours to change is the initramfs: how long it could take tells whether the reach can be had.
                    left = float(bound.split()[1]) * theirs["took"] - ours["before"] - ours["image"]
                    note = (
                        f"{part('took')} s: firmware and kernel {part('before')}, initramfs {part('initramfs')}, image {part('image')}; "
                        f"{bound} leaves the initramfs {max(0.0, left):.1f} s"
                    )
                    if ours["proof"]:
                        # The peers prove nothing.
                        note += f"; {ours['proof']:.1f} s prove the root, without them {(ours['took'] - ours['proof']) / theirs['took']:.2f}"
                    table.add("boot", what, name, ratio, bound, note, turns if peer == "manual" else None)
